"""Events of one moment that see one another are found, in what evaluation asks and in what training is fed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_cut import cut_of

import features.sequences
from experiments.leakage import event_order, fitted_statistics
from training import windows
from training.windows import Timeline

CHECKS = (event_order.evaluation, event_order.encoded, event_order.questions, fitted_statistics.fed)


@pytest.mark.parametrize("check", CHECKS)
def test_a_clean_platform_with_ties_passes(events: pd.DataFrame, check) -> None:
    outcome = check(cut_of(events))

    assert outcome.findings == []
    assert outcome.rows > 20


@pytest.mark.parametrize("check", [event_order.evaluation, event_order.encoded])
def test_a_history_that_holds_its_own_moment_is_found(events, monkeypatch: pytest.MonkeyPatch, check) -> None:
    honest = features.sequences.history_ends
    monkeypatch.setattr(features.sequences, "history_ends", lambda log, user, time: honest(log, user, time + 1))

    (found,) = check(cut_of(events)).findings

    assert found.examples[0]["event_time"] == found.examples[0]["asked at"]


@pytest.mark.parametrize("check", [event_order.questions, fitted_statistics.fed])
def test_a_question_of_training_that_sees_its_own_moment_is_found(
    events, monkeypatch: pytest.MonkeyPatch, check
) -> None:
    honest = Timeline.visible
    monkeypatch.setattr(Timeline, "visible", lambda self, user, time: honest(self, user, time + 1))

    (found,) = check(cut_of(events)).findings

    assert found.rows > 100


def test_a_question_of_training_that_sees_an_event_before_it_was_known_is_found(events, monkeypatch) -> None:
    row = events.index[events["part"] == "train"][100]
    events.loc[row, "known_time"] += pd.Timedelta(days=20)
    assert event_order.questions(cut_of(events)).findings == []
    monkeypatch.setattr(event_order, "Timeline", lambda past: Timeline(replace(past, known=past.times)))

    (found,) = event_order.questions(cut_of(events)).findings

    assert found.examples[0]["user_id"] == events["user_id"][row]
    assert found.examples[0]["known_time"] > found.examples[0]["asked at"] > found.examples[0]["event_time"]


def test_a_training_batch_whose_trends_are_of_later_is_found(events, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.datamodule import TrendTable

    honest = TrendTable.rows
    later = lambda self, time: np.minimum(honest(self, time) + 1, len(self.moments) - 1)  # noqa: E731
    monkeypatch.setattr(TrendTable, "rows", later)

    (found,) = fitted_statistics.fed(cut_of(events)).findings

    assert found.examples[0]["sees"].startswith("trends as of ")


def test_a_true_item_that_lies_in_its_own_history_is_found(events, monkeypatch: pytest.MonkeyPatch) -> None:
    again = events[events["part"] == "train"].groupby("user_id").tail(1)
    later = again["event_time"] + pd.Timedelta(minutes=1)
    planted = pd.concat([events, again.assign(event_id="z" + again["event_id"], event_time=later, known_time=later)])
    monkeypatch.setattr(windows, "_first_of_pair", lambda users, items: np.ones(len(users), dtype=bool))

    (found,) = fitted_statistics.fed(cut_of(planted)).findings

    assert found.examples[0]["sees"] == "the true item itself"
