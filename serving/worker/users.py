"""What is known of whoever asks, wherever it came from. Worker side."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from features.encode import resolve_history
from features.online import profile as profile_module
from features.online.connect import connect_to_read, read_settings
from features.online.errors import StoreAbsent, StoreError
from features.online.profile import PERSONALIZATION
from features.online.store import ProfileStore, Reading, ReadingState
from features.trends import TrendSnapshot
from features.vocabulary import Vocabulary
from serving.circuit_breaker import Breaker
from serving.worker.request import Request

NO_STORE = "no history was stated, and no online store is configured to look one up"
NOBODY = "no history was stated and no user named"


@dataclass(frozen=True)
class Person:
    """Attributes:
    items, times: of the history: item ids and microseconds, oldest first, as ingest would have kept them; all of it
        before the request's time.
    traits: column -> value.
    note: why there is no history; empty where there is one, or where it is plain from the request.
    feature_time_us: when the platform last learned of the person; 0 where only the request tells.
    """

    items: Sequence[str] = ()
    times: Sequence[int] = ()
    traits: Mapping[str, object] = field(default_factory=dict)
    note: str = ""
    feature_time_us: int = 0


class Lookup(Protocol):
    """Finds people by user id."""

    def people(self, requests: Sequence[Request], repeats: str) -> list[Person]:
        """One for each request, which all name a user; read in one round trip. Never fails: a Person without history
        says in its note why."""

    def trends(self, vocabulary: Vocabulary, as_of_us: int, newer_than_us: int) -> TrendSnapshot | None:
        """Item trends of a moment after one and not after another; None where there are none. Never fails."""


def people_of(requests: Sequence[Request], repeats: str, lookup: Lookup | None) -> list[Person]:
    """Whoever asks: as the request states, else as the store knows. A stated history wins over a stored one.

    Args:
        repeats: `first`, `last` or `all`, as `ingest.repeats` was when the model was trained.
    """
    asked = [request for request in requests if not request.stated and request.user_id is not None]
    found = iter(lookup.people(asked, repeats) if lookup is not None and asked else [])
    people = []
    for request in requests:
        if request.stated:
            resolved = resolve_history(request.history, request.time_us, repeats)
            people.append(Person([item for item, _ in resolved], [moment for _, moment in resolved]))
        elif request.user_id is None:
            people.append(Person(note=NOBODY))
        else:
            people.append(next(found) if lookup is not None else Person(note=NO_STORE))
    return people


log = logging.getLogger(__name__)

FAILURES, REST_SECONDS = 3, 5.0
NOTES = {
    ReadingState.UNKNOWN: "the online store does not know this user",
    ReadingState.EXPIRED: "what the online store knew of this user has expired",
    ReadingState.CORRUPT: "the online store's record of this user cannot be read",
}
ABSENT = "no history was stated, and no online store has been filled to look one up"
FAILED = "the online store did not answer"
RESTED = "the online store was not asked, since it kept failing"
NO_CONSENT = "this user has not agreed to personalisation"


class StoreLookup:
    """One round trip for a batch; a store that fails costs the batch its read timeout, and is then left alone a while.

    Args:
        open_store: called when the store is first needed, and again after it failed to open.
        count: told how each question ended: answered, absent, failed or rested.
    """

    def __init__(
        self,
        open_store: Callable[[], ProfileStore],
        breaker: Breaker | None = None,
        count: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        self._open, self._count = open_store, count
        self._store: ProfileStore | None = None
        self._breaker = breaker or Breaker(FAILURES, REST_SECONDS)

    @classmethod
    def of(cls, dataset: str, count: Callable[[str], None]) -> StoreLookup:
        """The store that the environment names, with the profiles of a data set."""
        return cls(lambda: connect_to_read(dataset, read_settings(), single=True), count=count)

    def people(self, requests: Sequence[Request], repeats: str) -> list[Person]:
        """One for each request, which all name a user."""
        asked = [(request.user_id or "", request.time_us) for request in requests]
        users, moments = zip(*asked, strict=True)
        readings, note = self._ask(lambda store: store.read(users, moments))
        if readings is None:
            return [Person(note=note)] * len(requests)
        return [person_of(reading, one.time_us, repeats) for reading, one in zip(readings, requests, strict=True)]

    def trends(self, vocabulary: Vocabulary, as_of_us: int, newer_than_us: int) -> TrendSnapshot | None:
        """Trends of a moment after one and not after another; None where the store has none or fails."""
        found, _ = self._ask(lambda store: store.read_trends(as_of_us, newer_than_us))
        return found and found.snapshot(vocabulary)

    def _ask(self, question: Callable[[ProfileStore], Any]) -> tuple[Any, str]:
        """(the answer, "") or (None, why there is none)."""
        if not self._breaker.allows():
            self._count("rested")
            return None, RESTED
        try:
            self._store = self._store or self._open()
            answer = question(self._store)
        except StoreAbsent:  # looked for again at the next batch: it costs a glance at a folder
            self._count("absent")
            return None, ABSENT
        except StoreError as error:
            self._breaker.failed()
            self._count("failed")
            log.warning("the online store failed: %s", error)
            return None, FAILED
        self._breaker.succeeded()
        self._count("answered")
        return answer, ""


def person_of(reading: Reading, time_us: int, repeats: str) -> Person:
    """Whoever a store knows, as a request at a moment may see them; without history where it may see none."""
    if reading.profile is None:
        return Person(note=NOTES[reading.state])
    profile = reading.profile
    if profile_module.visible_consent(profile, time_us).get(PERSONALIZATION) is False:
        return Person(note=NO_CONSENT)
    items, times = profile_module.visible_items(profile, time_us, repeats)
    return Person(items, times, profile_module.visible_traits(profile, time_us), "", profile.feature_time_us)
