"""A no is never lost, in whatever order answers arrive, and only a yes that holds is consent."""

from __future__ import annotations

from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.columns import DAY
from data.consent import (
    CLOCK_TOLERANCE_US,
    MODEL_TRAINING,
    NEVER_ASKED,
    PERSONALIZATION,
    Answer,
    ConsentRecord,
    decide,
    merge,
)

NOW = 1_700_000_000_000_000
# So few values that times often meet: ties are where orders differ.
few = st.sampled_from([0, 1, 2, CLOCK_TOLERANCE_US, CLOCK_TOLERANCE_US + 1])
answers = st.builds(
    lambda granted, at, source, expires: Answer(granted, NOW + at, source, expires),
    st.booleans(), few, st.sampled_from("ab"), st.none() | few.map(lambda days: NOW + days * DAY),
)  # fmt: skip
records = st.builds(
    ConsentRecord,
    st.dictionaries(st.sampled_from([PERSONALIZATION, MODEL_TRAINING]), answers),
    st.just(0) | few.map(lambda at: NOW + at),
)


def answered(granted: bool, at: int = NOW, **more: int) -> ConsentRecord:
    return ConsentRecord({PERSONALIZATION: Answer(granted, at, "page", **more)})


@given(records, records, records)
def test_records_merge_in_any_order_and_grouping_and_repetition(one, other, third) -> None:
    assert merge(one, other) == merge(other, one)
    assert merge(merge(one, other), third) == merge(one, merge(other, third))
    assert merge(one, one) == one
    assert merge(NEVER_ASKED, one) == one


@given(st.lists(records, min_size=1), st.integers(-5, 5).map(lambda days: NOW + days * DAY))
def test_merging_grants_only_by_a_yes_that_no_later_answer_denies(parts: list[ConsentRecord], now_us: int) -> None:
    granted = decide(reduce(merge, parts), PERSONALIZATION, now_us) == "granted"

    given_answers = [part.answers[PERSONALIZATION] for part in parts if PERSONALIZATION in part.answers]
    newest = max((answer.time_us for answer in given_answers), default=0)
    last = [answer for answer in given_answers if answer.time_us == newest]
    assert not granted or all(answer.granted for answer in last)
    assert not granted or all(answer.expires_us is None or now_us < answer.expires_us for answer in last)
    assert not granted or newest > max(part.lost_us for part in parts)
    refused = max((answer.time_us for answer in given_answers if not answer.granted), default=0)
    assert not granted or newest > refused + CLOCK_TOLERANCE_US, "a clock ahead may have stamped that yes"


@given(records, st.integers(-5, 5).map(lambda days: NOW + days * DAY))
def test_a_purpose_is_unasked_only_in_a_record_that_lost_nothing(record: ConsentRecord, now_us: int) -> None:
    is_unasked = decide(record, PERSONALIZATION, now_us) == "not_asked"

    assert is_unasked == (PERSONALIZATION not in record.answers and not record.lost_us)


@pytest.mark.parametrize(
    ("record", "decision"),
    [
        (None, "denied"),  # lost or damaged
        (NEVER_ASKED, "not_asked"),
        (answered(True), "granted"),
        (answered(False), "denied"),
        (answered(True, expires_us=NOW + 1), "granted"),
        (answered(True, expires_us=NOW), "denied"),
        (answered(False, expires_us=NOW - DAY), "denied"),  # a no does not expire into a maybe
        (answered(True, NOW + CLOCK_TOLERANCE_US), "granted"),
        (answered(True, NOW + CLOCK_TOLERANCE_US + 1), "denied"),
        (answered(False, NOW + DAY), "denied"),  # a no from the future is one now
        (ConsentRecord(lost_us=NOW - DAY), "denied"),
        (ConsentRecord({PERSONALIZATION: Answer(True, NOW - DAY, "page")}, lost_us=NOW - DAY), "denied"),
        (ConsentRecord({PERSONALIZATION: Answer(True, NOW, "page")}, lost_us=NOW - DAY), "granted"),
        (ConsentRecord({MODEL_TRAINING: Answer(False, NOW, "page")}), "not_asked"),
        (ConsentRecord({PERSONALIZATION: Answer("yes", NOW, "page")}), "denied"),  # type: ignore[arg-type]
    ],
)
def test_the_rule(record: ConsentRecord | None, decision: str) -> None:
    assert decide(record, PERSONALIZATION, NOW) == decision


def test_the_newest_answer_holds_and_of_two_at_the_same_time_the_no() -> None:
    yes, no, later = answered(True), answered(False), answered(True, NOW + CLOCK_TOLERANCE_US + 1)

    assert decide(merge(yes, no), PERSONALIZATION, NOW) == "denied"
    assert decide(merge(no, later), PERSONALIZATION, NOW + DAY) == "granted"
    assert decide(merge(later, yes), PERSONALIZATION, NOW + DAY) == "granted"
    ahead = answered(True, NOW + CLOCK_TOLERANCE_US)  # by a clock that runs ahead, before the no
    assert decide(merge(ahead, no), PERSONALIZATION, NOW + DAY) == "denied"
