"""What a data set's events tell of its users as of any moment: what a model should have read of them."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

import params
from data.columns import KNOWN_TIME, USER
from data.products import INGESTED, SPLIT
from data.times import microseconds
from features.fill import profiles
from features.online.profile import Profile
from features.online.store import Policy
from serving.histories import reading
from serving.worker.person import Person
from serving.worker.store_lookup import person_of

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

    def person(self, user: str, time_us: int, repeats: str, until_us: int | None = None) -> Person:
        """As a request at a moment should find the user.

        Args:
            repeats: as the artifact's config has it.
            until_us: until when the platform has learned; None is until the request.
        """
        known = self.profile(user, time_us if until_us is None else until_us)
        return person_of(reading(known, time_us, self.policy), time_us, repeats)


def users() -> list[str]:
    """Everybody in the data set that lies here."""
    tables = [pd.read_parquet(path, columns=[USER]) for path in (USERS, EVENTS) if path.is_file()]
    return sorted({user for table in tables for user in table[USER]})


def horizon() -> int:
    """When the newest of the data set's events became known, in microseconds: of what was learned later it holds nothing."""
    return int(microseconds(pd.read_parquet(EVENTS, columns=[KNOWN_TIME])[KNOWN_TIME]).max())
