"""History and traits that an answer read, held against what the data set tells of the user as of the answer's moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data.instants import from_iso
from experiments.serving_skew.asking import Asking, asking_of
from experiments.serving_skew.causes import cause
from experiments.serving_skew.outcomes import (
    HISTORY,
    MATCHED,
    NOT_COMPARABLE,
    NOTHING,
    TRAITS,
    Outcome,
    kind_of,
    not_comparable,
)
from experiments.serving_skew.sources import Sources
from serving.edge import wire
from serving.worker.person import Person
from serving.worker.store_lookup import NO_CONSENT

OF_USER = (HISTORY, TRAITS)
STATED = "the request states its own history"
NOBODY = "the request names no user"
NO_KEY = "the key of the pseudonyms is not here (user.key beside the served log, or TIDEGATE_EDGE_USER_SECRET)"
NO_EVENTS = "the data set's events are not here (`dvc pull`)"
STRANGER = "no such user in the data set here: unknown to it, erased, or without consent to training"
NEWER = "the platform has learned of the user since the data set ends: ingest again"


def of_user(line: Mapping[str, Any], repeats: str, sources: Sources) -> tuple[dict[str, Outcome], Person | None]:
    """(the outcome of each group, what should have been read of the user; None where that is not known).

    Args:
        repeats: as the artifact's config has it.
    """
    if why := _why_not(line, sources):
        return not_comparable(why, OF_USER), None
    assert sources.people is not None  # or there were a reason
    asking = asking_of(line, repeats, sources)
    due = Person() if asking.user is None else sources.people.person(asking.user, asking.time_us, repeats)
    told, nothing = asking.digests(due), asking.digests(Person())
    kinds = {group: kind_of(line["inputs"].get(group), told[group], nothing[group]) for group in OF_USER}
    found = {group: _outcome(group, kind, due, asking, sources) for group, kind in kinds.items()}
    known = asking.user is not None or set(kinds.values()) == {NOTHING}
    return found, due if known else None


def _why_not(line: Mapping[str, Any], sources: Sources) -> str | None:
    """Why nothing of the user can be compared."""
    if line["basis"] == wire.WITHHELD:
        return f"consent {line['consent']}: the worker was told nothing of the user"
    if line["basis"] != wire.STORED:
        return STATED if line["basis"] == wire.STATED else NOBODY
    if sources.secret is None or sources.people is None:
        return NO_KEY if sources.secret is None else NO_EVENTS
    if line["reason"].startswith(NO_CONSENT):
        return "consent denied: the worker read nothing of the user"
    learned_us = from_iso(line["feature_time"]) if line.get("feature_time") else 0
    return NEWER if min(learned_us, from_iso(line["time"])) > sources.horizon_us else None


def _outcome(group: str, kind: str, due: Person, asking: Asking, sources: Sources) -> Outcome:
    if group == TRAITS and asking.unknown:
        return Outcome(NOT_COMPARABLE, asking.unknown)
    if kind in (MATCHED, NOTHING):
        return Outcome(kind)
    if asking.user is None:
        return Outcome(NOT_COMPARABLE, STRANGER)
    return Outcome(kind, cause(group, kind, due, asking, sources))
