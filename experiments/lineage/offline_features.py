"""What a data set's events tell of its users as of any moment: what a model should have read of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from typing import Any

import numpy as np
import pandas as pd

from config import params
from config.paths import FEATURES, INGESTED, SPLIT
from data.columns import KNOWN_TIME, MINUTE, USER
from data.time_columns import microseconds
from data.times import from_iso
from experiments.lineage.served_log import LineageError
from features import feature_files
from features.feature_files import Features
from features.materialize import profiles
from features.online.connect import connect_to_read, settings
from features.online.errors import StoreError
from features.online.item_trends import ItemTrends
from features.online.profile import Profile
from features.online.store import Policy
from features.trends import TrendSnapshot, last_refresh
from features.vocabulary import Vocabulary
from serving.user_histories import reading
from serving.worker import response
from serving.worker.recommender import Recommender
from serving.worker.users import User, user_from_reading

EVENTS, USERS = SPLIT / "events.parquet", INGESTED / "users.parquet"


class Offline:
    """Some users of the data set that lies here.

    Attributes:
        policy: what an online store would keep and serve of them.
    """

    def __init__(self, events: pd.DataFrame, users: pd.DataFrame, policy: Policy) -> None:
        self.policy = policy
        self._events, self._users = (dict(iter(table.groupby(USER))) for table in (events, users))
        self._nobody = users.iloc[:0]

    @classmethod
    def of(cls, users: Collection[str], online: params.Online) -> Offline | None:
        """None where the data set's events are not here."""
        if not EVENTS.is_file():
            return None
        some = [(USER, "in", sorted(users) or [""])]  # nobody's name is empty; an empty list would have no type
        known = pd.read_parquet(USERS, filters=some) if USERS.is_file() else pd.DataFrame({USER: []})
        return cls(pd.read_parquet(EVENTS, filters=some), known, Policy.of(online.max_events, online.ttl_days))

    def profile(self, user: str, until_us: int) -> Profile | None:
        """Of what had happened before a moment and was known by then; None where nothing was."""
        if user not in self._events:
            return None
        return next(profiles(self._events[user], self._users.get(user, self._nobody), until_us), None)

    def person(self, user: str, time_us: int, repeats: str, until_us: int | None = None) -> User:
        """As a request at a moment should find the user.

        Args:
            repeats: as the artifact's config has it.
            until_us: until when the platform has learned; None is until the request.
        """
        known = self.profile(user, time_us if until_us is None else until_us)
        return user_from_reading(reading(known, time_us, self.policy), time_us, repeats)


def users() -> list[str]:
    """Everybody in the data set that lies here."""
    tables = [pd.read_parquet(path, columns=[USER]) for path in (USERS, EVENTS) if path.is_file()]
    return sorted({user for table in tables for user in table[USER]})


def horizon() -> int:
    """When the newest of the data set's events became known, in microseconds: of what was learned later it holds nothing."""
    return int(microseconds(pd.read_parquet(EVENTS, columns=[KNOWN_TIME])[KNOWN_TIME]).max())


TEST_FEATURES = FEATURES / "test"


class OfflineTrends:
    """Item trends by the data set's events, as of any moment up to its end.

    Attributes:
        channels: that it has.
        dataset_hash: of the data set version.
        refresh_us: between two moments of which a platform has trends.
        until_us: where the data set ends.
    """

    def __init__(self, features: Features) -> None:
        about = features.description
        self.channels, self.dataset_hash, self.until_us = about["channels"], about["dataset_hash"], about["until_us"]
        self._minutes, self.refresh_us = about["refresh_minutes"], about["refresh_minutes"] * MINUTE
        self._log, self._vocabulary = features.trend_log(), features.vocabulary

    @classmethod
    def here(cls) -> OfflineTrends | None:
        """None where the features are not here."""
        return cls(feature_files.load(TEST_FEATURES)) if (TEST_FEATURES / "description.json").exists() else None

    def due(self, time_us: int) -> int:
        """The last full refresh before a moment and before the data set's end."""
        return int(last_refresh(np.int64(min(time_us, self.until_us)), self._minutes))

    def at(self, vocabulary: Vocabulary, moment_us: int) -> TrendSnapshot:
        """By the rows of a model's vocabulary."""
        return ItemTrends.of(self._log, self._vocabulary, self.channels, moment_us).snapshot(vocabulary)


def find(line: Mapping[str, Any], recommender: Recommender, chosen: params.Params) -> tuple[str, TrendSnapshot | None]:
    """(where they were found, the trends); None where the artifact's own hold.

    Raises:
        LineageError: they are nowhere any more.
    """
    moment, channels = from_iso(line["trends_time"]), recommender.model.channels
    if not channels or moment == recommender.artifact.trends.time_us:
        return "the artifact", None
    stated = (line.get("inputs") or {}).get("trends")
    found = list(_live(moment, recommender, chosen))
    for source, snapshot in found:
        if stated in (None, response.digest_of_trends(snapshot, channels)):
            return source, snapshot
    if found:
        return found[0]
    raise LineageError(
        f"the item trends of {line['trends_time']} are no longer there: the online store holds others, and "
        f"{TEST_FEATURES}, of which they could be computed, is not here (`dvc pull`)"
    )


def _live(moment: int, recommender: Recommender, chosen: params.Params) -> Iterator[tuple[str, TrendSnapshot]]:
    offline = OfflineTrends.here()
    if offline is not None and moment <= offline.until_us:
        yield f"{TEST_FEATURES}, as of then", offline.at(recommender.vocabulary, moment)
    try:
        with closing(connect_to_read(chosen.dataset, settings())) as online:
            held = online.read_trends(moment)
    except StoreError:
        return
    if held is not None and held.time_us == moment:
        yield "the online store", held.snapshot(recommender.vocabulary)
