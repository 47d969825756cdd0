"""Users' histories read from a dataset's events, as the online store would hold and serve them at a given time."""

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
class UserHistories:
    """A `serving.worker.users.UserLookup` of some users.

    Attributes:
        profiles: by user id.
        policy: what the online store would keep and serve of them.
        item_trends: as of the time of the requests.
    """

    profiles: dict[str, Profile]
    policy: Policy
    item_trends: ItemTrends

    def find_users(self, requests: Sequence[Request], repeats: str) -> list[User]:
        return [
            user_from_reading(
                reading(self.profiles.get(request.user_id or ""), request.time_us, self.policy),
                request.time_us,
                repeats,
            )
            for request in requests
        ]

    def find_trends(self, vocabulary: Vocabulary, as_of_us: int, newer_than_us: int) -> TrendSnapshot | None:
        is_usable = newer_than_us < self.item_trends.time_us <= as_of_us
        return self.item_trends.snapshot(vocabulary) if is_usable else None


def reading(profile: Profile | None, time_us: int, policy: Policy) -> Reading:
    """A profile as the online store would return it at a given time."""
    if profile is None:
        return Reading(ReadingState.UNKNOWN)
    if policy.expired(profile.feature_time_us, time_us):
        return Reading(ReadingState.EXPIRED)
    return Reading(ReadingState.FOUND, join_profiles(Profile(profile.user_id), profile, policy.max_events))


def batches_of_users(
    events: pd.DataFrame, users: pd.DataFrame, until_us: int, policy: Policy, trends: ItemTrends, batch_size: int
) -> Iterator[tuple[list[str], UserHistories]]:
    """Every user of the two tables with their histories, ordered by id, in batches: memory holds one batch of profiles.

    Args:
        until_us: events from this time on, and what became known later, are left out.
    """
    events, users = (table.sort_values(USER, kind="stable") for table in (events, users))
    user_ids = sorted({*events[USER], *users[USER]})
    for begin in range(0, len(user_ids), batch_size):
        batch = user_ids[begin : begin + batch_size]
        read = profiles_at(_rows_of(events, batch), _rows_of(users, batch), until_us)
        yield batch, UserHistories({profile.user_id: profile for profile in read}, policy, trends)


def _rows_of(table: pd.DataFrame, user_ids: list[str]) -> pd.DataFrame:
    """The rows of consecutive users, from a table sorted by user."""
    owners = table[USER].to_numpy(dtype=object)
    return table.iloc[np.searchsorted(owners, user_ids[0]) : np.searchsorted(owners, user_ids[-1], side="right")]
