"""What is known about the user of a request: from the request itself, or from the online store. Worker side."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from data.consent import PERSONALIZATION, Decision, decide
from data.times import now_us
from features.encode import resolve_history
from features.online import profile as profile_module
from features.online.connect import connect_to_read, read_settings
from features.online.errors import StoreAbsent, StoreError
from features.online.store import ProfileStore, Reading, ReadingState
from features.trends import TrendSnapshot
from features.vocabulary import Vocabulary
from serving.circuit_breaker import Breaker
from serving.worker.request import Request

log = logging.getLogger(__name__)

BREAKER_FAILURES, BREAKER_SECONDS = 3, 5.0
ANONYMOUS = "the request has no history and names no user"
NO_STORE = "the request has no history, and no online store is configured"
STORE_ABSENT = "the request has no history, and the online store is empty"
STORE_FAILED = "the online store did not answer"
STORE_RESTED = "the online store was not read, because it kept failing"
NO_CONSENT = "this user has not agreed to personalization"
NO_PROFILE = {
    ReadingState.UNKNOWN: "the online store does not know this user",
    ReadingState.EXPIRED: "what the online store knew about this user has expired",
    ReadingState.CORRUPT: "the online store's record of this user cannot be read",
}


@dataclass(frozen=True)
class User:
    """What a model may know about a user at the time of a request. The history is earlier, oldest first."""

    items: Sequence[str] = ()  # of the history; repeats are treated as in ingest
    times: Sequence[int] = ()  # of the history, microseconds
    traits: Mapping[str, object] = field(default_factory=dict)  # column -> value
    reason: str = ""  # why there is no history; empty where there is one, or where the request itself shows it
    feature_time_us: int = 0  # when the platform last learned something about the user; 0: never


class UserLookup(Protocol):
    """Finds users by id, and newer item trends. Neither method fails."""

    def find_users(self, requests: Sequence[Request], repeats: str) -> list[User]:
        """One user per request, in one round trip; all requests name a user. A missing history has its `reason`."""

    def find_trends(self, vocabulary: Vocabulary, as_of_us: int, newer_than_us: int) -> TrendSnapshot | None:
        """Item trends of a time in (newer_than_us, as_of_us]; None where there are none."""


@dataclass
class StoreLookup:
    """Looks users up in the online store, one round trip per batch.

    A store that fails costs a batch its read timeout; after a few failures it is left alone for some seconds.
    """

    open_store: Callable[[], ProfileStore]  # called when the store is first needed, and again after it failed to open
    breaker: Breaker = field(default_factory=lambda: Breaker(BREAKER_FAILURES, BREAKER_SECONDS))
    count: Callable[[str], None] = lambda outcome: None  # gets each query's outcome: answered, absent, failed or rested
    _store: ProfileStore | None = None

    @classmethod
    def from_environment(cls, dataset: str, count: Callable[[str], None]) -> StoreLookup:
        """The store that the environment configures, with the profiles of a dataset."""
        return cls(lambda: connect_to_read(dataset, read_settings(), single=True), count=count)

    def find_users(self, requests: Sequence[Request], repeats: str) -> list[User]:
        ids = [request.user_id or "" for request in requests]
        times = [request.time_us for request in requests]
        readings, reason = self._query(lambda store: store.read(ids, times))
        if readings is None:
            return [User(reason=reason)] * len(requests)
        moment_us = now_us()
        return [
            user_from_reading(reading, time_us, repeats, moment_us)
            for reading, time_us in zip(readings, times, strict=True)
        ]

    def find_trends(self, vocabulary: Vocabulary, as_of_us: int, newer_than_us: int) -> TrendSnapshot | None:
        found, _ = self._query(lambda store: store.read_trends(as_of_us, newer_than_us))
        return found and found.snapshot(vocabulary)

    def _query(self, query: Callable[[ProfileStore], Any]) -> tuple[Any, str]:
        """(the result, "") or (None, why there is none)."""
        if not self.breaker.allows():
            self.count("rested")
            return None, STORE_RESTED
        try:
            self._store = self._store or self.open_store()
            result = query(self._store)
        except StoreAbsent:  # each batch looks again, which costs one look at a folder
            self.count("absent")
            return None, STORE_ABSENT
        except StoreError as error:
            self.breaker.failed()
            self.count("failed")
            log.warning("the online store failed: %s", error)
            return None, STORE_FAILED
        self.breaker.succeeded()
        self.count("answered")
        return result, ""


def user_from_reading(reading: Reading, time_us: int, repeats: str, now_us: int) -> User:
    """The user as a request at a time may see them; without history where it may see none.

    Consent is what it is now, also for a request of another time.
    """
    if decide(reading.consent, PERSONALIZATION, now_us) is Decision.DENIED:
        return User(reason=NO_CONSENT)
    if reading.profile is None:
        return User(reason=NO_PROFILE[reading.state])
    profile = reading.profile
    items, times = profile_module.visible_items(profile, time_us, repeats)
    return User(items, times, profile_module.visible_traits(profile, time_us), "", profile.feature_time_us)


def resolve_users(requests: Sequence[Request], repeats: str, lookup: UserLookup | None) -> list[User]:
    """The user of each request. A history in the request wins over a stored one.

    `repeats` is the value of `ingest.repeats` that the model was trained with: `first`, `last` or `all`.
    """
    stored = [request for request in requests if not request.has_history and request.user_id is not None]
    found = iter(lookup.find_users(stored, repeats) if lookup is not None and stored else [])
    users = []
    for request in requests:
        if request.has_history:
            events = resolve_history(request.history, request.time_us, repeats)
            users.append(User([item for item, _ in events], [time_us for _, time_us in events]))
        elif request.user_id is None:
            users.append(User(reason=ANONYMOUS))
        else:
            users.append(next(found) if lookup is not None else User(reason=NO_STORE))
    return users
