"""The online store's interface: what serving reads and the stream writes, whatever holds it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from data.columns import DAY
from features.online.item_trends import ItemTrends
from features.online.profile import Profile


class State(StrEnum):
    """Why a profile was read, or was not."""

    FOUND = "found"
    UNKNOWN = "unknown"  # the store has never heard of the user
    EXPIRED = "expired"  # nothing was learned of the user within the time-to-live
    CORRUPT = "corrupt"  # there is a record, and it cannot be read; `detail` says why


@dataclass(frozen=True)
class Reading:
    """One user's profile, or why there is none."""

    state: State
    profile: Profile | None = None
    detail: str = ""


@dataclass(frozen=True)
class Policy:
    """What holds for all profiles of a store. Lies in the store itself, so that whoever reads obeys it.

    Attributes:
        max_events: the newest events that a profile keeps.
        ttl_us: what was learned longer ago is not served, in microseconds; None serves it for ever.
        filled: whether the users of the data set are in. Until they are, nobody is read: a user whose no is still to
            come would count as one whom nobody asked.
    """

    max_events: int
    ttl_us: int | None
    filled: bool = True

    @classmethod
    def of(cls, max_events: int, ttl_days: float | None) -> Policy:
        """As params.yaml states it, in the section online."""
        return cls(max_events, None if ttl_days is None else round(ttl_days * DAY))

    def expired(self, learned_us: int, as_of_us: int) -> bool:
        return self.ttl_us is not None and as_of_us - learned_us > self.ttl_us


class ProfileStore(Protocol):
    """Profiles by user, and the trends of all items.

    Every method raises StoreUnavailable where the store does not answer in time. Nothing that was written is lost
    by another writer at the same moment, and what `upsert` has returned from outlives a kill of the writer.
    """

    def configure(self, policy: Policy) -> None:
        """Set the policy; readers and writers obey it from their next call on. Needed once, before any write."""

    def policy(self) -> Policy | None:
        """What was configured; None where nothing was."""

    def read(self, user_ids: Sequence[str], as_of_us: Sequence[int]) -> list[Reading]:
        """One Reading per user, in order, all in one round trip; a bad record costs its neighbours nothing.

        Args:
            as_of_us: the moment that each is asked for, which time-to-live counts to. Profiles may hold later
                events: `features.online.profile` tells what the moment may see.

        Raises:
            StoreError: the store was not configured, or is still being filled.
        """

    def upsert(self, changes: Sequence[Profile]) -> None:
        """Join each change with what the store holds of its user; in any order and any number of times.

        Raises:
            StoreConflict: other writers won at every attempt. Some changes may be in; repeat all.
            NewerRecord: a user's record was written by newer code; it stays, the others' changes are in.
        """

    def erase(self, user_ids: Sequence[str]) -> None:
        """Forget users. A change that is written afterwards begins a new profile."""

    def write_trends(self, trends: ItemTrends) -> None:
        """Replace the trends, unless the store holds those of a later moment."""

    def read_trends(self, as_of_us: int, newer_than_us: int | None = None) -> ItemTrends | None:
        """The trends, or None: where there are none, they are of a later moment, expired, or not newer.

        Args:
            newer_than_us: the moment of the trends that the caller has; asking costs little while they hold.

        Raises:
            RecordError: the stored trends cannot be read.
        """

    def health(self) -> dict:
        """{"store": where, "round_trip_us": int}; raises StoreUnavailable where nothing answers."""

    def close(self) -> None:
        """Let go of connections; safe to call twice."""
