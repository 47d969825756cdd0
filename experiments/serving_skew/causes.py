"""How what an answer read of its user differs from what was due, as far as anything here still has its values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from data.instants import from_iso
from experiments.serving_skew.asking import Asking
from experiments.serving_skew.outcomes import HISTORY, NOT_SERVED, TRAITS
from experiments.serving_skew.sources import Sources
from serving.worker.person import Person
from serving.worker.rungs import PERSONALISED
from serving.worker.store_lookup import person_of

UNKNOWN = "by digest alone: what was read is neither in the data set nor in the online store as it is now"


def cause(group: str, kind: str, due: Person, asking: Asking, sources: Sources) -> str:
    """In words: what was missing, or by how much two accounts differ and who has the one that was read."""
    if kind == NOT_SERVED:
        said = "" if asking.line["rung"] == PERSONALISED else f"; the answer says: {asking.line['reason']}"
        return f"{_told(group, due)} due{said}"
    for where, person in _accounts(asking, sources):
        if asking.as_served(group, person):
            return f"{_apart(group, person, due)}; {where}"
    return UNKNOWN


def _accounts(asking: Asking, sources: Sources) -> Iterator[tuple[str, Person]]:
    """What may have been read instead."""
    assert asking.user is not None
    assert sources.people is not None
    if learned := asking.line.get("feature_time"):
        person = sources.people.person(asking.user, asking.time_us, asking.repeats, from_iso(learned) + 1)
        yield f"the store was behind: it had last learned of the user at {learned}", person
    if (reading := sources.stored(asking.user, asking.time_us)) is not None:
        yield "as the online store has it now", person_of(reading, asking.time_us, asking.repeats)


def _told(group: str, person: Person) -> str:
    return _events(len(person.items)) if group == HISTORY else ", ".join(sorted(person.traits))


def _events(count: int) -> str:
    return f"{count:,} event{'s' * (count != 1)}"


def _apart(group: str, read: Person, due: Person) -> str:
    """In what two accounts of a user differ."""
    if group == TRAITS:
        names = {name for name in {**read.traits, **due.traits} if read.traits.get(name) != due.traits.get(name)}
        return f"other values of {', '.join(sorted(names))}"
    had, should = (Counter(zip(person.items, person.times, strict=True)) for person in (read, due))
    more, less = (had - should).total(), (should - had).total()
    parts = ([f"{_events(more)} not due"] if more else []) + ([f"{_events(less)} missing"] if less else [])
    return " and ".join(parts) or "the same events in another order"
