"""Consent by purpose: the record of one person's answers, and the one rule by which every reader decides.

Only a yes that is known to hold is consent. An answer that is lost, damaged, expired or from the future is a no. Nobody
else was asked, so whether they get personal answers is a setting of the reader.

Records form a join-semilattice: `merge` is commutative, associative and idempotent, so answers may arrive late, twice
and in any order. Loads only the standard library, so that the serving worker and the edge can use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from data.columns import MINUTE

PURPOSES = PERSONALIZATION, MODEL_TRAINING = "personalization", "model_training"
CLOCK_TOLERANCE_US = MINUTE  # how far the clocks of two machines may differ


class Decision(StrEnum):
    """What a person's consent allows for one purpose."""

    GRANTED = "granted"
    DENIED = "denied"
    NOT_ASKED = "not_asked"


class Answer(NamedTuple):
    """A person's answer for one purpose."""

    granted: bool
    time_us: int  # when the person answered
    source: str  # where: a page, a banner, a table
    expires_us: int | None = None  # from when on a yes no longer holds; None: it does not expire


@dataclass(frozen=True)
class ConsentRecord:
    """What is stored of one person's consent. Where a record is lost, None stands for it.

    Attributes:
        answers: purpose -> the newest answer. A purpose that is missing was not asked for.
        lost_us: until when answers may have been lost: a yes until then does not hold; 0: none were lost.
    """

    answers: Mapping[str, Answer] = field(default_factory=dict)
    lost_us: int = 0


NEVER_ASKED = ConsentRecord()  # also stored, for a person who is known: no record at all would mean that it was lost


def decide(record: ConsentRecord | None, purpose: str, now_us: int) -> Decision:
    """What a record allows at a moment; None is a record that is lost or cannot be read."""
    if record is None:
        return Decision.DENIED
    answer = record.answers.get(purpose)
    if answer is None:
        return Decision.DENIED if record.lost_us else Decision.NOT_ASKED
    holds = (
        answer.granted is True
        and answer.time_us <= now_us + CLOCK_TOLERANCE_US
        and (answer.expires_us is None or now_us < answer.expires_us)
        and not (record.lost_us and answer.time_us <= record.lost_us)
    )
    return Decision.GRANTED if holds else Decision.DENIED


def merge(one: ConsentRecord, other: ConsentRecord) -> ConsentRecord:
    """Both records of a person in one: the newest answer for each purpose, and of two at about the same time the no."""
    both = {name: max(one.answers[name], other.answers[name], key=_rank) for name in one.answers.keys() & other.answers}
    return ConsentRecord({**one.answers, **other.answers, **both}, max(one.lost_us, other.lost_us))


def outrank_future(answers: ConsentRecord, held: ConsentRecord, now_us: int) -> ConsentRecord:
    """New answers before they are merged with what is held: a no takes the time of a held yes from the future.

    A clock that ran ahead stamped that yes. Without this, it would outrank the later no as soon as its time has come.
    """
    moved = {}
    for purpose, answer in answers.answers.items():
        before = held.answers.get(purpose)
        if before is not None and before.granted and not answer.granted and before.time_us > now_us:
            moved[purpose] = answer._replace(time_us=max(answer.time_us, before.time_us))
    return ConsentRecord({**answers.answers, **moved}, answers.lost_us)


def _rank(answer: Answer) -> tuple:
    """A no outranks a yes of up to `CLOCK_TOLERANCE_US` later, which a clock that runs ahead may have stamped.

    At the same time, what expires earlier outranks what expires later.
    """
    expires = float("inf") if answer.expires_us is None else answer.expires_us
    lead_us = 0 if answer.granted else CLOCK_TOLERANCE_US
    return answer.time_us + lead_us, not answer.granted, -expires, answer.source
