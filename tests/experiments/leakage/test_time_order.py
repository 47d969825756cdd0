"""An event that stands, or is filed, or is read before its time is found, and named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_cut import TEST, cut_of, features_of, split

from data.columns import DAY
from data.time_columns import microseconds
from data.times import to_iso
from experiments.leakage import event_order
from features.sequences import InteractionLog

HOURS_LATE = pd.Timedelta(hours=30)


def late(events: pd.DataFrame) -> pd.DataFrame:
    """The last event before the test cut is known only after it."""
    row = events.index[microseconds(events["event_time"]) < TEST][-1]
    events.loc[row, "known_time"] += HOURS_LATE
    return events


def test_an_event_that_stands_before_an_earlier_one_is_found(events: pd.DataFrame) -> None:
    at = cut_of(events)
    rows = [*range(7), 400, *range(7, 400), *range(401, len(events))]

    (found,) = event_order.total_order(replace(at, events=events.iloc[rows])).findings

    assert (found.rows, found.examples[0]["event_id"]) == (1, events["event_id"][7])
    assert event_order.total_order(at).findings == []


def test_events_of_one_time_stand_in_the_order_of_their_ids(events: pd.DataFrame) -> None:
    at = cut_of(events)
    tied = int(np.flatnonzero(np.diff(at.times) == 0)[0])
    rows = [*range(tied), tied + 1, tied, *range(tied + 2, len(events))]

    (found,) = event_order.total_order(replace(at, events=events.iloc[rows])).findings

    assert found.rows == 1


def test_an_event_that_stands_twice_is_found(events: pd.DataFrame) -> None:
    at = cut_of(events)

    (twice, pair) = event_order.duplicates(replace(at, events=split(pd.concat([events, events.iloc[[3]]])))).findings

    assert (twice.what, twice.rows, len(twice.examples)) == ("an event stands twice", 1, 2)
    assert pair.what == "a user has an item twice"


def test_a_pair_on_both_sides_of_the_cut_is_found_unless_repeats_are_kept(events: pd.DataFrame) -> None:
    again = events.iloc[[5]].assign(event_id="e9999")
    again["event_time"] = again["known_time"] = events["event_time"].iloc[-1]
    at = replace(cut_of(events), events=split(pd.concat([events, again])))

    (found,) = event_order.duplicates(at).findings
    assert {one["user_id"] for one in found.examples} == {events["user_id"][5]}
    at.features.description["repeats"] = "all"
    assert event_order.duplicates(at).findings == []


def test_an_event_of_the_test_period_filed_as_training_is_found(events: pd.DataFrame) -> None:
    at = cut_of(events)
    events.loc[len(events) - 1, "part"] = "train"

    (found,) = event_order.parts(at).findings

    assert (found.rows, found.fails) == (1, True)
    assert found.examples[0]["event_time"] == to_iso(at.times[-1])
    assert found.examples[0]["user_id"] == events["user_id"].iloc[-1]


@pytest.mark.parametrize(("name", "value"), [("cut_us", TEST + DAY), ("split_id", "other"), ("until_us", TEST + 1)])
def test_features_of_another_split_or_period_are_found(events: pd.DataFrame, name: str, value: object) -> None:
    at = cut_of(events, name="valid")
    assert event_order.one_split(at).findings == []

    at.features.description[name] = value

    assert event_order.one_split(at).findings[0].rows == 1


def test_an_event_that_the_log_has_at_an_earlier_time_is_found(events: pd.DataFrame) -> None:
    at = cut_of(events)
    at.features.log.times[17] -= 3 * DAY

    (found,) = event_order.log_is_the_split(at).findings

    assert (found.rows, found.examples[0]["event_time"]) == (1, to_iso(at.features.log.times[17]))


def test_an_event_that_the_log_lacks_is_found(events: pd.DataFrame) -> None:
    at = cut_of(events, features_of(events.iloc[:-1]))

    assert event_order.log_is_the_split(at).findings[0].fails


def test_training_that_reads_an_event_after_the_cut_is_found(events, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = InteractionLog.before
    monkeypatch.setattr(InteractionLog, "before", lambda self, time_us: honest(self, time_us + DAY))

    (found,) = event_order.training(at := cut_of(events)).findings

    assert found.rows == int(((at.times >= TEST) & (at.times < TEST + DAY)).sum())
    assert all(one["event_time"] >= to_iso(TEST) for one in found.examples)


def test_training_that_reads_an_event_nobody_knew_of_is_found(events, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = InteractionLog.before

    def blind(log: InteractionLog, time_us: int) -> InteractionLog:
        return replace(honest(replace(log, known=log.times), time_us), known=log.known[log.times < time_us])

    monkeypatch.setattr(InteractionLog, "before", blind)

    (found,) = event_order.training(cut_of(late(events))).findings

    assert (found.rows, found.fails) == (1, True)
    assert found.examples[0]["event_time"] < to_iso(TEST) < found.examples[0]["known_time"]


def test_a_late_event_that_training_leaves_out_is_told_but_fails_nothing(events: pd.DataFrame) -> None:
    (found,) = event_order.training(cut_of(late(events))).findings

    assert (found.rows, found.fails) == (1, False)
