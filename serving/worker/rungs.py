"""Which rung an answer stands on: personalised, segment or popular, and why. Worker side."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from serving.worker.person import Person
from serving.worker.request import Request
from training.models.base import Model

PERSONALISED, SEGMENT, POPULAR = "personalised", "segment", "popular"


@dataclass(frozen=True)
class Rung:
    """Where an answer comes from. `segment` is the one whose list it is, on the rung of that name."""

    name: str
    reason: str
    segment: str | None = None


def rung_of(
    model: Model, request: Request, person: Person, events: int, traits: bool, lists: Sequence[str], failed: bool
) -> Rung:
    """The highest rung that can be stood on.

    Args:
        events: of the history, that the model knows the items of.
        traits: whether any trait is known.
        lists: the person's segments for which there is a list, by precedence.
        failed: whether the model could not score this batch.
    """
    if failed:
        return _below("the model failed on this batch", lists)
    if not model.personal:
        return Rung(POPULAR, f"the deployed model ({model.name}) is the same for everybody")
    if events:
        return Rung(PERSONALISED, f"ranked from {events} known event{'s' * (events > 1)} of the history")
    if traits and model.answers_cold():
        return Rung(PERSONALISED, "ranked from the traits that are known; there is no history")
    if person.note:
        return _below(person.note, lists)
    if request.history or person.items:
        return _below("no event of the history is of a known item and before the request's time", lists)
    return _below("the history is empty", lists)


def _below(reason: str, lists: Collection[str]) -> Rung:
    for segment in lists:
        return Rung(SEGMENT, f"{reason}; popular in the segment {segment}", segment)
    return Rung(POPULAR, reason)
