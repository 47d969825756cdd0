"""A leak in time is found: order, parts, cuts, ties and sessions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_cut import TEST, cut_of, features_of, moments, split

import features.sequences
from data.columns import DAY, MINUTE
from data.tables import microseconds
from data.times import to_iso
from experiments.leakage import event_order, feature_checks
from features.sequences import InteractionLog
from training import timeline
from training.timeline import Timeline

HOURS_LATE = pd.Timedelta(hours=30)


def late(events: pd.DataFrame) -> pd.DataFrame:
    """The last event before the test cut is known only after it."""
    row = events.index[microseconds(events["event_time"]) < TEST][-1]
    events.loc[row, "known_time"] += HOURS_LATE
    return events


def test_an_event_before_an_earlier_one_is_found(events: pd.DataFrame) -> None:
    at = cut_of(events)
    rows = [*range(7), 400, *range(7, 400), *range(401, len(events))]

    (found,) = event_order.total_order(replace(at, events=events.iloc[rows])).findings

    assert (found.rows, found.examples[0]["event_id"]) == (1, events["event_id"][7])
    assert event_order.total_order(at).findings == []


def test_events_of_one_time_are_ordered_by_id(events: pd.DataFrame) -> None:
    at = cut_of(events)
    tied = int(np.flatnonzero(np.diff(at.times) == 0)[0])
    rows = [*range(tied), tied + 1, tied, *range(tied + 2, len(events))]

    (found,) = event_order.total_order(replace(at, events=events.iloc[rows])).findings

    assert found.rows == 1


def test_an_event_that_appears_twice_is_found(events: pd.DataFrame) -> None:
    at = cut_of(events)

    (twice, pair) = event_order.duplicates(replace(at, events=split(pd.concat([events, events.iloc[[3]]])))).findings

    assert (twice.what, twice.rows, len(twice.examples)) == ("an event appears twice", 2, 2)
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
    assert event_order.same_split(at).findings == []

    at.features.description[name] = value

    assert event_order.same_split(at).findings[0].rows == 1


def test_an_event_that_the_log_has_at_an_earlier_time_is_found(events: pd.DataFrame) -> None:
    at = cut_of(events)
    at.features.log.times[17] -= 3 * DAY

    (found,) = event_order.same_log(at).findings

    assert (found.rows, found.examples[0]["event_time"]) == (1, to_iso(at.features.log.times[17]))


def test_an_event_that_the_log_lacks_is_found(events: pd.DataFrame) -> None:
    at = cut_of(events, features_of(events.iloc[:-1]))

    assert event_order.same_log(at).findings[0].fails


def test_training_that_reads_an_event_after_the_cut_is_found(events, monkeypatch: pytest.MonkeyPatch) -> None:
    original = InteractionLog.before
    monkeypatch.setattr(InteractionLog, "before", lambda self, time_us: original(self, time_us + DAY))

    (found,) = event_order.training(at := cut_of(events)).findings

    assert found.rows == int(((at.times >= TEST) & (at.times < TEST + DAY)).sum())
    assert all(one["event_time"] >= to_iso(TEST) for one in found.examples)


def test_training_that_reads_an_unknown_event_is_found(events, monkeypatch: pytest.MonkeyPatch) -> None:
    original = InteractionLog.before

    def blind(log: InteractionLog, time_us: int) -> InteractionLog:
        return replace(original(replace(log, known=log.times), time_us), known=log.known[log.times < time_us])

    monkeypatch.setattr(InteractionLog, "before", blind)

    (found,) = event_order.training(cut_of(late(events))).findings

    assert (found.rows, found.fails) == (1, True)
    assert found.examples[0]["event_time"] < to_iso(TEST) < found.examples[0]["known_time"]


def test_a_late_event_that_training_leaves_out_is_reported_without_failing(events: pd.DataFrame) -> None:
    (found,) = event_order.training(cut_of(late(events))).findings

    assert (found.rows, found.fails) == (1, False)


CHECKS = (
    event_order.evaluation_histories,
    event_order.encoded_histories,
    event_order.training_questions,
    feature_checks.training_batches,
)


@pytest.mark.parametrize("check", CHECKS)
def test_a_clean_platform_with_ties_passes(events: pd.DataFrame, check) -> None:
    outcome = check(cut_of(events))

    assert outcome.findings == []
    assert outcome.rows > 20


@pytest.mark.parametrize("check", [event_order.evaluation_histories, event_order.encoded_histories])
def test_a_history_that_holds_its_own_moment_is_found(events, monkeypatch: pytest.MonkeyPatch, check) -> None:
    original = features.sequences.history_ends
    monkeypatch.setattr(features.sequences, "history_ends", lambda log, user, time: original(log, user, time + 1))

    (found,) = check(cut_of(events)).findings

    assert found.examples[0]["event_time"] == found.examples[0]["case time"]


@pytest.mark.parametrize("check", [event_order.training_questions, feature_checks.training_batches])
def test_a_question_of_training_that_sees_its_own_moment_is_found(
    events, monkeypatch: pytest.MonkeyPatch, check
) -> None:
    original = Timeline.visible
    monkeypatch.setattr(Timeline, "visible", lambda self, user, time: original(self, user, time + 1))

    (found,) = check(cut_of(events)).findings

    assert found.rows > 100


def test_a_question_of_training_that_sees_an_event_before_it_was_known_is_found(events, monkeypatch) -> None:
    row = events.index[events["part"] == "train"][100]
    events.loc[row, "known_time"] += pd.Timedelta(days=20)
    assert event_order.training_questions(cut_of(events)).findings == []
    monkeypatch.setattr(event_order, "Timeline", lambda past: Timeline(replace(past, known=past.times)))

    (found,) = event_order.training_questions(cut_of(events)).findings

    assert found.examples[0]["user_id"] == events["user_id"][row]
    assert found.examples[0]["known_time"] > found.examples[0]["case time"] > found.examples[0]["event_time"]


def test_a_training_batch_with_later_trends_is_found(events, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.datamodule import TrendTable

    original = TrendTable.rows
    later = lambda self, time: np.minimum(original(self, time) + 1, len(self.moments) - 1)  # noqa: E731
    monkeypatch.setattr(TrendTable, "rows", later)

    (found,) = feature_checks.training_batches(cut_of(events)).findings

    assert found.examples[0]["sees"].startswith("trends as of ")


def test_a_true_item_that_lies_in_its_own_history_is_found(events, monkeypatch: pytest.MonkeyPatch) -> None:
    again = events[events["part"] == "train"].groupby("user_id").tail(1)
    later = again["event_time"] + pd.Timedelta(minutes=1)
    planted = pd.concat([events, again.assign(event_id="z" + again["event_id"], event_time=later, known_time=later)])
    monkeypatch.setattr(timeline, "first_of_pairs", lambda users, items: np.ones(len(users), dtype=bool))

    (found,) = feature_checks.training_batches(cut_of(planted)).findings

    assert found.examples[0]["sees"] == "the true item itself"


@pytest.fixture
def spanning(events: pd.DataFrame) -> pd.DataFrame:
    """u03 sits through the cut: two events before it, three after, at most 29 minutes apart."""
    times = [TEST + minutes * MINUTE for minutes in (-40, -11, 0, 20, 49)]
    items = [f"i{number:03d}" for number in range(119) if not _has(events, "u03", number)][:5]
    more = pd.DataFrame({"event_id": [f"z{n}" for n in range(5)], "user_id": "u03", "item_id": items,
                         "event_time": moments(times), "known_time": moments(times), "device": "tv"})  # fmt: skip
    near = abs(events["event_time"] - pd.Timestamp(TEST, unit="us", tz="UTC")) < pd.Timedelta(hours=3)
    return split(pd.concat([events[~near], more]))


def _has(events: pd.DataFrame, user: str, number: int) -> bool:
    return ((events["user_id"] == user) & (events["item_id"] == f"i{number:03d}")).any()


def test_a_session_that_spans_the_cut_is_reported_without_failing(spanning: pd.DataFrame) -> None:
    (found,) = event_order.spanning_sessions(cut_of(spanning)).findings

    assert (found.rows, found.fails) == (1, False)
    assert found.what.startswith("1 of ")
    assert found.examples == [
        {"user_id": "u03", "from": to_iso(TEST - 40 * MINUTE), "to": to_iso(TEST + 49 * MINUTE), "events before": "2",
         "after": "3"}
    ]  # fmt: skip


def test_a_longer_pause_ends_a_session(spanning: pd.DataFrame) -> None:
    gap = spanning["event_id"].isin(["z2", "z3", "z4"])
    spanning.loc[gap, ["event_time", "known_time"]] += pd.Timedelta(minutes=19)

    assert event_order.spanning_sessions(cut_of(spanning)).findings == []


def test_a_whole_session_filed_as_training_is_found(spanning: pd.DataFrame) -> None:
    spanning.loc[spanning["event_id"].isin(["z3", "z4"]), "part"] = "train"

    _, leak = event_order.spanning_sessions(cut_of(spanning)).findings

    assert (leak.rows, leak.fails) == (2, True)
    assert {one["event_id"] for one in leak.examples} == {"z3", "z4"}


def test_the_later_part_of_a_session_that_training_reads_is_found(spanning, monkeypatch: pytest.MonkeyPatch) -> None:
    original = InteractionLog.before
    monkeypatch.setattr(InteractionLog, "before", lambda self, time_us: original(self, time_us + DAY))

    _, leak = event_order.spanning_sessions(cut_of(spanning)).findings

    assert leak.rows == 3
