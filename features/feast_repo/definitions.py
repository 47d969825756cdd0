"""The online store in Feast: writers and batch jobs use its library, the edge its feature server, the worker neither.

    feast -c features/feast_repo apply    # the registry and the tables; the online store is named in feature_store.yaml
    TIDEGATE_STORE=feast://$PWD/features/feast_repo python -m features.materialize
    feast -c features/feast_repo serve --host 127.0.0.1 --port 6566    # it asks for no key: on loopback
    TIDEGATE_STORE=feast+http://127.0.0.1:6566 make edge
    feast -c features/feast_repo ui

The edge reads consent there and states history and traits to TorchServe; item trends are those of the artifact, unless
the embedded store is filled too. One machine writes at a time, by `features.materialize` alone: `features/feast_store/sdk_engine.py`
says why.

A profile's record is the truth; all other columns are read out of it when it is written, for Feast's UI and for whoever
reads by Feast's own means. They are as of that write: time-to-live holds for what `features.online` reads alone.
"""

from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Bool, Bytes, Int64, String, UnixTimestamp

# Feast learns from it how the column of write times is called; it holds nothing, for nothing is materialised.
source = FileSource(name="written_online", path="none.parquet", timestamp_field="event_timestamp")

dataset = Entity(name="dataset", join_keys=["dataset"], value_type=ValueType.STRING, description="params.dataset")
user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING, description="who is recommended to")
part = Entity(name="part", join_keys=["part"], value_type=ValueType.STRING, description="policy, trends, trends-time")

profile = FeatureView(
    name="profile",
    description="What is known of a user now; features.materialize writes it, nothing else may",
    entities=[dataset, user],
    schema=[
        Field(name="record", dtype=Bytes, description="the profile, as features.online.profile_codec encodes it"),
        Field(name="events", dtype=Int64, description="how many events the profile holds"),
        Field(name="last_item", dtype=String, description="item of the newest event"),
        Field(name="last_event_time", dtype=UnixTimestamp, description="when the newest event happened"),
        Field(name="feature_time", dtype=UnixTimestamp, description="when the platform last learned of the user"),
        Field(name="personalisation", dtype=Bool, description="the user's consent to it; null where nobody asked"),
        Field(name="truncated", dtype=Bool, description="whether older events were dropped"),
        Field(name="erased", dtype=Bool, description="whether the user was forgotten: all else is null"),
    ],
    source=source,
)

shared = FeatureView(
    name="shared",
    description="What holds for all users of a data set: the policy, and the trends of all items",
    entities=[dataset, part],
    schema=[
        Field(name="record", dtype=Bytes, description="a policy or a time as text, or features.online.item_trends"),
        Field(name="erased", dtype=Bool, description="whether it was taken back: the record is null"),
    ],
    source=source,
)
