"""The online store in Feast. Writers and batch jobs use its library, the edge its feature server, the worker neither.

    feast -c features/feast_repo apply    # the registry and the tables; feature_store.yaml names the online store
    TIDEGATE_STORE=feast://$PWD/features/feast_repo python -m features.materialize --no-answer not-asked
    feast -c features/feast_repo serve --host 127.0.0.1 --port 6566    # has no authentication: only on loopback
    TIDEGATE_STORE=feast+http://127.0.0.1:6566 make edge
    feast -c features/feast_repo ui

The edge reads consent, history and traits there and sends them to TorchServe. Item trends are the artifact's, unless
the embedded store is materialized too. One machine writes at a time, only through `features.materialize`; see
`features/feast_sdk.py`. `features.online` applies the time-to-live. Set none in Feast, such as Redis's
`key_ttl_seconds`: it would also end consent.
"""

from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Bool, Bytes

# Names the column of write times for Feast. It is never read: nothing is materialized from files.
source = FileSource(name="written_online", path="none.parquet", timestamp_field="event_timestamp")

dataset = Entity(name="dataset", join_keys=["dataset"], value_type=ValueType.STRING, description="params.dataset")
user = Entity(
    name="user", join_keys=["user_id"], value_type=ValueType.STRING, description="the user of a recommendation"
)
part = Entity(name="part", join_keys=["part"], value_type=ValueType.STRING, description="policy, trends, trends-time")

profile = FeatureView(
    name="profile",
    description="What is known of a user now; features.materialize writes it, nothing else may",
    entities=[dataset, user],
    schema=[
        Field(name="record", dtype=Bytes, description="the profile, as features.online.records encodes it"),
        Field(name="erased", dtype=Bool, description="whether the user was erased: the record is null"),
    ],
    source=source,
)

consent = FeatureView(
    name="consent",
    description="A user's answers by purpose; features.materialize writes it, nothing else may",
    entities=[dataset, user],
    schema=[
        Field(name="record", dtype=Bytes, description="the answers, as features.online.records encodes them"),
        Field(name="erased", dtype=Bool, description="whether it was removed: the record is null"),
    ],
    source=source,
)

shared = FeatureView(
    name="shared",
    description="What all users of a dataset share: the policy, and the trends of all items",
    entities=[dataset, part],
    schema=[
        Field(name="record", dtype=Bytes, description="a policy or a time as text, or features.online.records"),
        Field(name="erased", dtype=Bool, description="whether it was removed: the record is null"),
    ],
    source=source,
)
