"""A feature that reads its own moment or later is found and named; the others are not."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from made_cut import SETTINGS, cut_of

import features.sequences
from data.columns import DAY
from experiments.leakage import future_features
from features.trends import TrendLog
from training import validation


def named(events: pd.DataFrame, name: str = "test") -> set[str]:
    """The features that are found."""
    findings = future_features.per_feature(cut_of(events, name=name)).findings
    return {one.what.removeprefix("the feature ").removesuffix(" reads its own moment or later") for one in findings}


def test_clean_features_do_not_change_when_the_future_is_taken_away(events: pd.DataFrame) -> None:
    outcome = future_features.per_feature(cut_of(events))

    assert outcome.findings == []
    assert outcome.rows > SETTINGS.audit.travelled_cases  # of both targets


def test_a_history_that_ends_too_late_is_named(events, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = features.sequences.history_ends
    monkeypatch.setattr(features.sequences, "history_ends", lambda log, user, time: honest(log, user, time + 1))

    assert named(events) == {"items", "item_times", "seen"}


def test_an_event_in_a_history_before_it_was_known_is_named(events, monkeypatch: pytest.MonkeyPatch) -> None:
    events["known_time"] += pd.Timedelta(days=2)
    assert named(events) == set()
    honest = features.sequences.encode_cases

    def blind(log, cases, *rest):
        return honest(features.sequences.Log(**vars(log) | {"known": log.times}), cases, *rest)

    monkeypatch.setattr(features.sequences, "encode_cases", blind)

    assert named(events) == {"items", "item_times", "seen"}


def test_a_trend_that_looks_ahead_is_named_alone(events, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = TrendLog._channel
    ahead = lambda self, at, channel: honest(self, at + DAY * (channel == "half_life_7d"), channel)  # noqa: E731
    monkeypatch.setattr(TrendLog, "_channel", ahead)

    assert named(events) == {"trend half_life_7d"}


def test_trends_refreshed_after_the_question_are_named(events, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "moments", lambda cases, minutes: cases.time + 1)

    assert named(events) == {f"trend {channel}" for channel in cut_of(events).features.description["channels"]}


def test_traits_of_a_user_who_has_not_come_yet_are_named(events, monkeypatch: pytest.MonkeyPatch) -> None:
    early = events["event_time"] < pd.Timestamp("2024-01-15", tz="UTC")
    events = events[~(early & events["user_id"].isin([f"u{n:02d}" for n in range(10)]))].reset_index(drop=True)
    assert named(events) == set()
    honest = features.sequences.encode_cases

    def told(log, cases, rows, *rest):
        batch = honest(log, cases, rows, *rest)
        batch.traits = torch.from_numpy(log.traits[cases.user[rows]])
        return batch

    monkeypatch.setattr(features.sequences, "encode_cases", told)

    assert named(events) == {"traits"}


def test_context_of_an_event_that_nobody_has_asked_for_yet_is_named(events, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = validation.horizon_cases

    def told(log, *rest):
        cases = honest(log, *rest)
        cases.context = log.context[np.minimum(cases.end, len(log.times) - 1)]
        return cases

    monkeypatch.setattr(validation, "horizon_cases", told)

    assert named(events) == {"context"}


def test_a_finding_shows_the_item_and_both_values(events, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "moments", lambda cases, minutes: cases.time + 1)

    found = {one.what: one for one in future_features.per_feature(cut_of(events)).findings}
    example = next(iter(found.values())).examples[0]

    assert set(example) == {"target", "user_id", "moment", "with all data", "with the past alone"}
    item, _, value = example["with all data"].partition(": ")
    assert item.startswith("item i")
    assert float(value) > float(example["with the past alone"].removeprefix(f"{item}: "))
