"""What is known of whoever asks, wherever it came from. Worker side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from features.encode import resolve_history
from features.trends import TrendSnapshot
from features.vocabulary import Vocabulary
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
