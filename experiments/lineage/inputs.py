"""What an answer read, read again: its user's history and traits, and item trends.

The sources are the dataset's events, as of any time, and the online store, as it is now.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from typing import NamedTuple

import numpy as np
import pandas as pd

from config import params
from config.paths import FEATURES, INGESTED, SPLIT
from data.columns import KNOWN_TIME, MINUTE, USER
from data.consent import NEVER_ASKED
from data.ids import canonical_id
from data.tables import microseconds
from data.times import from_iso, now_us
from experiments.lineage.served_log import Line, LineageError
from features import feature_files
from features.feature_files import Features
from features.materialization import profiles_at
from features.online import profile
from features.online.connect import connect_to_read
from features.online.connect import read_settings as store_settings
from features.online.errors import StoreError
from features.online.profile import LATEST_US, Event, Profile
from features.online.records import ItemTrends
from features.online.store import Policy, Reading
from features.trends import TrendSnapshot, last_refresh
from features.vocabulary import Vocabulary
from serving.edge.request_log import PUBLIC_INPUT, hash_inputs, pseudonym
from serving.worker import response
from serving.worker.recommender import Recommender
from serving.worker.request import Request
from serving.worker.users import User, user_from_reading

EVENTS, USERS = SPLIT / "events.parquet", INGESTED / "users.parquet"
TEST_FEATURES = FEATURES / "test"
USER_PARTS = ("history", "traits")  # the digests of serving.worker.response that concern the user
NO_SECRET = "the key of the log's pseudonyms is missing (TIDEGATE_EDGE_USER_KEYS, or TIDEGATE_EDGE_USER_SECRET)"


# --- the dataset as of any time


class OfflineUsers:
    """Profiles of some users, computed from the dataset; `policy` is what an online store would keep and serve of them."""

    def __init__(self, events: pd.DataFrame, users: pd.DataFrame, policy: Policy) -> None:
        self.policy = policy
        self._events, self._users = (dict(iter(table.groupby(USER))) for table in (events, users))
        self._no_user = users.iloc[:0]

    @classmethod
    def load(cls, user_ids: Collection[str], online: params.Online) -> OfflineUsers | None:
        """None if the dataset's events are not here."""
        if not EVENTS.is_file():
            return None
        some = [(USER, "in", sorted(user_ids) or [""])]  # an empty list would have no type; no user id is empty
        users = pd.read_parquet(USERS, filters=some) if USERS.is_file() else pd.DataFrame({USER: []})
        return cls(pd.read_parquet(EVENTS, filters=some), users, Policy.from_days(online.max_events, online.ttl_days))

    def profile(self, user_id: str, until_us: int) -> Profile | None:
        """From what had happened before a time and was known by then; None without events."""
        if user_id not in self._events:
            return None
        return next(profiles_at(self._events[user_id], self._users.get(user_id, self._no_user), until_us), None)

    def user(self, user_id: str, time_us: int, repeats: str) -> User:
        """The user as a request at this time should find them; `repeats` is of the artifact's config."""
        return user_from_reading(self.reading(user_id, time_us, time_us), time_us, repeats, now_us())

    def reading(self, user_id: str, until_us: int, time_us: int) -> Reading:
        """What a store that learned until a time would return at another. The dataset does not know who refused."""
        return self.policy.reading(self.profile(user_id, until_us), NEVER_ASKED, time_us)


def dataset_users() -> list[str]:
    """All users of the dataset here."""
    tables = [pd.read_parquet(path, columns=[USER]) for path in (USERS, EVENTS) if path.is_file()]
    return sorted({user for table in tables for user in table[USER]})


def dataset_known_until() -> int:
    """When the newest event of the dataset became known, in microseconds."""
    return int(microseconds(pd.read_parquet(EVENTS, columns=[KNOWN_TIME])[KNOWN_TIME]).max())


class OfflineTrends:
    """Item trends computed from the dataset's events, as of any time up to its end.

    Attributes:
        channels: the trends it has.
        refresh_us: between two refreshes of a platform's trends.
        until_us: the end of the dataset.
    """

    def __init__(self, features: Features) -> None:
        about = features.description
        self.channels, self.dataset_hash, self.until_us = about["channels"], about["dataset_hash"], about["until_us"]
        self._minutes, self.refresh_us = about["refresh_minutes"], about["refresh_minutes"] * MINUTE
        self._log, self._vocabulary = features.trend_log(), features.vocabulary

    @classmethod
    def load(cls) -> OfflineTrends | None:
        """None if the features are not here."""
        there = (TEST_FEATURES / "description.json").exists()
        return cls(feature_files.load_features(TEST_FEATURES)) if there else None

    def due(self, time_us: int) -> int:
        """The last full refresh before a time and before the end of the dataset."""
        return int(last_refresh(np.int64(min(time_us, self.until_us)), self._minutes))

    def at(self, vocabulary: Vocabulary, time_us: int) -> TrendSnapshot:
        """The trends as of a time, by the rows of a model's vocabulary."""
        return ItemTrends.from_log(self._log, self._vocabulary, self.channels, time_us).snapshot(vocabulary)


def find_trends(line: Line, recommender: Recommender, settings: params.Params) -> tuple[str, TrendSnapshot | None]:
    """(source, the trends that an answer read); None for the trends of the artifact itself.

    Raises:
        LineageError: no source has them any more.
    """
    time_us, channels = from_iso(line["trends_time"]), recommender.model.channels
    if not channels or time_us == recommender.artifact.trends.time_us:
        return "the artifact", None
    digest = (line["inputs"] or {}).get("trends")
    found = list(_trend_sources(time_us, recommender, settings))
    if not found:
        raise LineageError(
            f"the item trends of {line['trends_time']} no longer exist: the online store holds others, and {TEST_FEATURES}, "
            "from which they could be computed, is missing (`dvc pull`)"
        )
    same = (one for one in found if digest in (None, response.digest_of_trends(one[1], channels)))
    return next(same, found[0])


def _trend_sources(
    time_us: int, recommender: Recommender, settings: params.Params
) -> Iterator[tuple[str, TrendSnapshot]]:
    offline = OfflineTrends.load()
    if offline is not None and time_us <= offline.until_us:
        yield f"{TEST_FEATURES}, as of then", offline.at(recommender.vocabulary, time_us)
    try:
        with closing(connect_to_read(settings.dataset, store_settings())) as store:
            held = store.read_trends(time_us)
    except StoreError:
        return
    if held is not None and held.time_us == time_us:
        yield "the online store", held.snapshot(recommender.vocabulary)


# --- the user of an answer


class UserReading(NamedTuple):
    """What a model could read of a user at a time, from one source."""

    source: str
    user: User
    events: list[Event]
    differs: list[str]  # the parts that are not what the answer read, as far as the log's digests show


def read_user(
    line: Line, repeats: str, secret: bytes | None, user_id: str | None, settings: params.Params,
    context: Mapping[str, object] | None = None,
) -> tuple[str, UserReading]:  # fmt: skip
    """(the user, what the answer read of them): from the first source that has it, else from the first of all.

    Args:
        repeats: of the artifact's config.
        secret: of the pseudonyms; without it, `user_id` is believed.
        user_id: who may have sent the request; None searches all users of the dataset.
        context: of the request; None if unknown.

    Raises:
        LineageError: the user is unknown, or neither the dataset nor a store is here.
    """
    found_id, why_unknown = _find_user(line, secret, user_id)
    readings: list[UserReading] = []
    if found_id is not None:
        readings = list(_user_readings(line, found_id, repeats, secret, settings, context))
    exact = next((one for one in readings if not one.differs), None)
    chosen = exact or _empty_reading(line, secret) or next(iter(readings), None)
    if chosen is not None:
        return found_id or line["user"], chosen
    if found_id is None:
        raise LineageError(f"the user is unknown: {why_unknown}")
    raise LineageError(f"the user's history is missing: neither {EVENTS} (`dvc pull`) nor an online store is here")


def _find_user(line: Line, secret: bytes | None, user_id: str | None) -> tuple[str | None, str]:
    """(the user behind a line's pseudonym; None if nobody was found, why nobody would be found)."""
    spellings = [] if user_id is None else [canonical_id(user_id, is_numeric) for is_numeric in (False, True)]
    if secret is None:
        return next(iter(spellings), None), NO_SECRET
    known = spellings or dataset_users()
    found = next((user for user in known if pseudonym(secret, user) == line["user"]), None)
    if user_id is not None:
        return found, f"the pseudonym is not that of {user_id!r}"
    return found, f"none of the {len(known):,} users of the dataset here has this pseudonym; --user names another"


def _user_readings(
    line: Line, user_id: str, repeats: str, secret: bytes | None, settings: params.Params,
    context: Mapping[str, object] | None,
) -> Iterator[UserReading]:  # fmt: skip
    """What the dataset and the online store have of a user."""
    time_us = from_iso(line["time"])
    request = Request(user_id, [], False, line["k"], time_us, dict(context or {}), None)
    # Traits are digested together with the context, so without it only the history can be compared.
    compared = USER_PARTS if context is not None or "context" not in line["unlogged_fields"] else USER_PARTS[:1]
    for source, held in _user_sources(line, user_id, time_us, settings):
        user = user_from_reading(held, time_us, repeats, now_us())
        events = profile.visible_events(held.profile, time_us, repeats) if held.profile and user.items else []
        differs = changed_parts(line, response.input_digests(request, user, ""), secret, compared)
        yield UserReading(source, user, events, differs)


def _user_sources(line: Line, user_id: str, time_us: int, settings: params.Params) -> Iterator[tuple[str, Reading]]:
    offline = OfflineUsers.load([user_id], settings.online)
    if offline is not None:
        # As the store knew the user then: it may have been behind.
        until_us = from_iso(line["feature_time"]) + 1 if line["feature_time"] else LATEST_US
        yield str(EVENTS), offline.reading(user_id, until_us, time_us)
    try:
        with closing(connect_to_read(settings.dataset, store_settings())) as store:
            yield "the online store", store.read([user_id], [time_us])[0]
    except StoreError:
        return


def _empty_reading(line: Line, secret: bytes | None) -> UserReading | None:
    """The reading of a worker that got nothing of the user; None if the answer's digest shows otherwise, or nothing."""
    user = User(reason=line["reason"].partition("; popular in the segment ")[0])
    digests = response.input_digests(Request(None, [], False, 1, 0, {}, None), user, "")
    if secret is None or changed_parts(line, digests, secret, USER_PARTS[:1]):
        return None
    return UserReading("nothing: the worker got no data of the user", user, [], [])


def changed_parts(line: Line, digests: dict[str, str], secret: bytes | None, parts: Collection[str]) -> list[str]:
    """The parts whose digests are not those of the log. Without the secret, only public parts can be compared."""
    if secret is None:
        own = {PUBLIC_INPUT: digests[PUBLIC_INPUT]}
    else:
        own = hash_inputs(secret, digests) or {}
    return [part for part in parts if part in own and own[part] != line["inputs"][part]]
