"""A feature that depends on the future is found and named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from made_cut import SETTINGS, TEST, VALID, cut_of, features_of, made_items, made_users, moments

import features.sequences
from data.columns import DAY
from data.times import to_iso
from experiments.leakage import feature_checks
from features import fit
from features.trends import TrendLog
from features.vocabulary import Vocabulary
from training import validation


def test_a_vocabulary_of_all_events_is_found(events: pd.DataFrame) -> None:
    features = features_of(events)
    every = replace(features, vocabulary=Vocabulary(fit.order_items(events)))

    (found,) = feature_checks.fitted_vocabulary(cut_of(events, every)).findings

    assert [one["item_id"] for one in found.examples] == ["i119"]
    assert feature_checks.fitted_vocabulary(cut_of(events, features)).findings == []


def test_a_vocabulary_ordered_by_later_popularity_is_found(events: pd.DataFrame) -> None:
    features = features_of(events)
    later = [item for item in fit.order_items(events) if item in set(features.vocabulary.ids)]

    (found,) = feature_checks.fitted_vocabulary(
        cut_of(events, replace(features, vocabulary=Vocabulary(later)))
    ).findings

    assert "order" in found.what
    assert found.rows > 10


def test_encoders_of_users_who_came_later_are_found(events: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    known = ~events["user_id"].isin(["u38", "u39"]) | (events["event_time"] >= pd.Timestamp(TEST, unit="us", tz="UTC"))
    events = events[known].reset_index(drop=True)
    assert feature_checks.fitted_encoders(cut_of(events)).findings == []
    original = fit.fit_encoders
    monkeypatch.setattr(
        fit, "fit_encoders", lambda frame, *rest: original(made_users() if "age" in frame else frame, *rest)
    )
    features = features_of(events)
    monkeypatch.setattr(fit, "fit_encoders", original)

    ages, plans = feature_checks.fitted_encoders(cut_of(events, features)).findings

    assert "traits column 'age'" in ages.what
    assert "trial" in plans.examples[0]["stored"]
    assert "trial" not in plans.examples[0]["by the past"]


def test_an_encoder_of_the_context_of_later_events_is_found(events: pd.DataFrame) -> None:
    before = events["event_time"] < pd.Timestamp(TEST, unit="us", tz="UTC")
    events.loc[~before, "device"] = "watch"
    features = features_of(events)
    features.description["encoders"]["context"] = fit.fit_encoders(events, ["device"], 64, 8)

    (found,) = feature_checks.fitted_encoders(cut_of(events, features)).findings

    assert "context column 'device'" in found.what


@pytest.mark.parametrize("group", ["text", "numbers"])
def test_item_features_scaled_by_later_items_are_found(events, monkeypatch: pytest.MonkeyPatch, group: str) -> None:
    original, every = fit.fit_item_features, made_items()
    if group == "text":
        more = {"item_id": [f"x{n}" for n in range(200)], "title": "red house", "genres": "drama"}
        every = pd.concat([every, every.iloc[[0] * 200].assign(**more)])

    def of_all(listed: pd.DataFrame, dimensions: int, seed: int) -> tuple[np.ndarray, dict[str, int]]:
        others = every[~every["item_id"].isin(listed["item_id"])]
        made, widths = original(pd.concat([listed, others])[listed.columns], dimensions, seed)
        drop = widths["genres"] - original(listed, dimensions, seed)[1]["genres"]
        assert drop == 1  # western, the genre of the later item, stands last
        kept = np.delete(made[: len(listed) + 1], widths["genres"] - 1, axis=1)
        return kept, widths | {"genres": widths["genres"] - 1}

    monkeypatch.setattr(fit, "fit_item_features", of_all)
    features = features_of(events)
    monkeypatch.setattr(fit, "fit_item_features", original)

    found = {one.what for one in feature_checks.fitted_content(cut_of(events, features)).findings}

    assert f"item features of the group {group!r} were not fitted on the past" in found
    assert feature_checks.fitted_content(cut_of(events)).findings == []


def test_a_genre_that_only_later_items_have_is_found(events: pd.DataFrame) -> None:
    features = features_of(events)
    features.description["content_widths"]["genres"] += 1

    assert "other columns" in feature_checks.fitted_content(cut_of(events, features)).findings[0].what


def test_trends_that_count_later_events_are_found_by_channel(events, monkeypatch: pytest.MonkeyPatch) -> None:
    original = TrendLog._leaving
    monkeypatch.setattr(TrendLog, "_leaving", lambda self, span: original(self, span + DAY))

    found = [one.what for one in feature_checks.fitted_trends(cut_of(events)).findings]

    assert found == [f"the trend window_{days}d at the cut is not what the past holds" for days in (1, 3, 7, 30)]


@pytest.mark.parametrize("cut_us", [VALID, TEST])
def test_the_second_count_agrees_with_the_trends_of_the_features(events: pd.DataFrame, cut_us: int) -> None:
    name = "valid" if cut_us == VALID else "test"
    at = cut_of(events, name=name)

    assert feature_checks.fitted_trends(at).findings == []
    assert at.features.trend_log().at(np.array([cut_us]), ["window_1d"]).sum() > 0
    assert set(at.features.description["channels"]) >= {
        f"window_{days}d" for days in SETTINGS.featurize.trends.windows_days
    }


def test_an_item_known_only_after_the_cut_is_found_with_its_first_event(events: pd.DataFrame) -> None:
    features = features_of(events)
    late = events["item_id"] == "i007"
    events.loc[late, "known_time"] += pd.Timedelta(days=100)

    (found,) = feature_checks.fitted_vocabulary(cut_of(events, features)).findings

    known = events.loc[late, "known_time"].min()
    assert found.examples == [{"item_id": "i007", "first known": to_iso(known.value // 1000), "stored": "True"}]


def test_a_trend_that_counts_an_item_before_its_first_event_is_found(events, monkeypatch: pytest.MonkeyPatch) -> None:
    assert feature_checks.future_trends(cut_of(events)).findings == []
    original = TrendLog._count
    monkeypatch.setattr(TrendLog, "_count", lambda self, when, items, at: original(self, when - DAY, items, at))

    (found,) = feature_checks.future_trends(cut_of(events)).findings

    assert found.rows == 119
    assert float(found.examples[0]["all"]) > 0


def test_a_list_with_a_future_item_is_found_with_model_user_and_time(events: pd.DataFrame, tmp_path: Path) -> None:
    table = pd.DataFrame({
        "user_id": ["u01", "u02"], "time": moments([TEST, TEST + 16 * DAY]), "ranked": [["i001", "i119"], ["i119", "i002"]],
    })  # fmt: skip
    table.to_parquet(tmp_path / "ease.parquet")
    at = cut_of(events, rankings={"ease": tmp_path / "ease.parquet"})

    outcome = feature_checks.future_rankings(at)

    assert outcome.rows == 4
    (found,) = outcome.findings
    assert (found.what, found.rows) == ("ease recommends items before their first event", 1)
    assert (found.examples[0]["user_id"], found.examples[0]["recommended at"]) == ("u01", to_iso(TEST))


def named(events: pd.DataFrame, name: str = "test") -> set[str]:
    """The features that are found."""
    findings = feature_checks.time_travel(cut_of(events, name=name)).findings
    return {one.what.removeprefix("the feature ").removesuffix(" reads its own time or later") for one in findings}


def test_clean_features_do_not_change_when_the_future_is_removed(events: pd.DataFrame) -> None:
    outcome = feature_checks.time_travel(cut_of(events))

    assert outcome.findings == []
    assert outcome.rows > SETTINGS.audit.travelled_cases  # of both targets


def test_a_history_that_ends_too_late_is_named(events, monkeypatch: pytest.MonkeyPatch) -> None:
    original = features.sequences.history_ends
    monkeypatch.setattr(features.sequences, "history_ends", lambda log, user, time: original(log, user, time + 1))

    assert named(events) == {"items", "item_times", "seen"}


def test_an_event_in_a_history_before_it_was_known_is_named(events, monkeypatch: pytest.MonkeyPatch) -> None:
    events["known_time"] += pd.Timedelta(days=2)
    assert named(events) == set()
    original = features.sequences.encode_cases

    def blind(log, cases, *rest):
        return original(features.sequences.InteractionLog(**vars(log) | {"known": log.times}), cases, *rest)

    monkeypatch.setattr(features.sequences, "encode_cases", blind)

    assert named(events) == {"items", "item_times", "seen"}


def test_a_trend_that_looks_ahead_is_named_alone(events, monkeypatch: pytest.MonkeyPatch) -> None:
    original = TrendLog._channel
    ahead = lambda self, at, channel: original(self, at + DAY * (channel == "half_life_7d"), channel)  # noqa: E731
    monkeypatch.setattr(TrendLog, "_channel", ahead)

    assert named(events) == {"trend half_life_7d"}


def test_trends_refreshed_after_the_question_are_named(events, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "moments", lambda cases, minutes: cases.time + 1)

    assert named(events) == {f"trend {channel}" for channel in cut_of(events).features.description["channels"]}


def test_traits_of_a_user_before_the_first_event_are_named(events, monkeypatch: pytest.MonkeyPatch) -> None:
    early = events["event_time"] < pd.Timestamp("2024-01-15", tz="UTC")
    events = events[~(early & events["user_id"].isin([f"u{n:02d}" for n in range(10)]))].reset_index(drop=True)
    assert named(events) == set()
    original = features.sequences.encode_cases

    def leaky(log, cases, rows, *rest):
        batch = original(log, cases, rows, *rest)
        batch.traits = torch.from_numpy(log.traits[cases.user[rows]])
        return batch

    monkeypatch.setattr(features.sequences, "encode_cases", leaky)

    assert named(events) == {"traits"}


def test_context_of_a_later_event_is_named(events, monkeypatch: pytest.MonkeyPatch) -> None:
    original = validation.horizon_cases

    def leaky(log, *rest):
        cases = original(log, *rest)
        cases.context = log.context[np.minimum(cases.end, len(log.times) - 1)]
        return cases

    monkeypatch.setattr(validation, "horizon_cases", leaky)

    assert named(events) == {"context"}


def test_a_finding_shows_the_item_and_both_values(events, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "moments", lambda cases, minutes: cases.time + 1)

    found = {one.what: one for one in feature_checks.time_travel(cut_of(events)).findings}
    example = next(iter(found.values())).examples[0]

    assert set(example) == {"target", "user_id", "time", "with all data", "with the past alone"}
    item, _, value = example["with all data"].partition(": ")
    assert item.startswith("item i")
    assert float(value) > float(example["with the past alone"].removeprefix(f"{item}: "))
