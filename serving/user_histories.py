"""Users' histories straight from a data set's events, as the online store would hold and serve them at a moment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from data.columns import USER
from features.materialization import profiles_at
from features.online.profile import Profile, join_profiles
from features.online.records import ItemTrends
from features.online.store import Policy, Reading, ReadingState
from features.trends import TrendSnapshot
from features.vocabulary import Vocabulary
from serving.worker.request import Request
from serving.worker.users import User, user_from_reading


@dataclass(frozen=True)
class Histories:
    """A `serving.worker.users.UserLookup` of some users.

    Attributes:
        profiles: by user id.
        policy: what the online store would keep and serve of them.
        item_trends: as of the moment that is asked about.
    """

    profiles: dict[str, Profile]
    policy: Policy
    item_trends: ItemTrends

    def find_users(self, requests: Sequence[Request], repeats: str) -> list[User]:
        return [
            user_from_reading(
                reading(self.profiles.get(one.user_id or ""), one.time_us, self.policy), one.time_us, repeats
            )
            for one in requests
        ]

    def find_trends(self, vocabulary: Vocabulary, as_of_us: int, newer_than_us: int) -> TrendSnapshot | None:
        fits = newer_than_us < self.item_trends.time_us <= as_of_us
        return self.item_trends.snapshot(vocabulary) if fits else None


def reading(known: Profile | None, time_us: int, policy: Policy) -> Reading:
    """A profile as the online store would give it at a moment."""
    if known is None:
        return Reading(ReadingState.UNKNOWN)
    if policy.expired(known.feature_time_us, time_us):
        return Reading(ReadingState.EXPIRED)
    return Reading(ReadingState.FOUND, join_profiles(Profile(known.user_id), known, policy.max_events))


def by_users(
    events: pd.DataFrame, users: pd.DataFrame, until_us: int, policy: Policy, trends: ItemTrends, batch: int
) -> Iterator[tuple[list[str], Histories]]:
    """Every user of the two tables, in the order of their ids, some at once with their histories: memory holds the
    profiles of one batch, not of all.

    Args:
        until_us: events from then on, and what became known later, do not exist.
        batch: users at once.
    """
    events, users = (table.sort_values(USER, kind="stable") for table in (events, users))
    everybody = sorted({*events[USER], *users[USER]})
    for begin in range(0, len(everybody), batch):
        some = everybody[begin : begin + batch]
        made = profiles_at(_of(events, some), _of(users, some), until_us)
        yield some, Histories({profile.user_id: profile for profile in made}, policy, trends)


def _of(table: pd.DataFrame, some: list[str]) -> pd.DataFrame:
    """The rows of a run of users, out of a table that is sorted by them."""
    owners = table[USER].to_numpy(dtype=object)
    return table.iloc[np.searchsorted(owners, some[0]) : np.searchsorted(owners, some[-1], side="right")]
