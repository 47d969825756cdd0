"""A statistic that was fitted on rows of after the cut is found and named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_cut import SETTINGS, TEST, VALID, cut_of, features_of, made_items, made_users

from data.columns import DAY
from experiments.leakage import fitted_statistics
from features import fit
from features.trends import TrendLog
from features.vocabulary import Vocabulary


def test_a_vocabulary_of_all_events_is_found(events: pd.DataFrame) -> None:
    features = features_of(events)
    every = replace(features, vocabulary=Vocabulary(fit.order_items(events)))

    (found,) = fitted_statistics.vocabulary(cut_of(events, every)).findings

    assert [one["item_id"] for one in found.examples] == ["i119"]
    assert fitted_statistics.vocabulary(cut_of(events, features)).findings == []


def test_an_order_by_the_popularity_of_later_is_found(events: pd.DataFrame) -> None:
    features = features_of(events)
    later = [item for item in fit.order_items(events) if item in set(features.vocabulary.ids)]

    (found,) = fitted_statistics.vocabulary(cut_of(events, replace(features, vocabulary=Vocabulary(later)))).findings

    assert "order" in found.what
    assert found.rows > 10


def test_encoders_of_users_who_came_later_are_found(events: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    known = ~events["user_id"].isin(["u38", "u39"]) | (events["event_time"] >= pd.Timestamp(TEST, unit="us", tz="UTC"))
    events = events[known].reset_index(drop=True)
    assert fitted_statistics.encoders(cut_of(events)).findings == []
    honest = fit.fit_encoders
    monkeypatch.setattr(
        fit, "fit_encoders", lambda frame, *rest: honest(made_users() if "age" in frame else frame, *rest)
    )
    features = features_of(events)
    monkeypatch.setattr(fit, "fit_encoders", honest)

    ages, plans = fitted_statistics.encoders(cut_of(events, features)).findings

    assert "traits column 'age'" in ages.what
    assert "trial" in plans.examples[0]["stored"]
    assert "trial" not in plans.examples[0]["by the past"]


def test_an_encoder_of_the_context_of_later_events_is_found(events: pd.DataFrame) -> None:
    before = events["event_time"] < pd.Timestamp(TEST, unit="us", tz="UTC")
    events.loc[~before, "device"] = "watch"
    features = features_of(events)
    features.description["encoders"]["context"] = fit.fit_encoders(events, ["device"], 64, 8)

    (found,) = fitted_statistics.encoders(cut_of(events, features)).findings

    assert "context column 'device'" in found.what


@pytest.mark.parametrize("group", ["text", "numbers"])
def test_item_features_scaled_by_items_of_later_are_found(events, monkeypatch: pytest.MonkeyPatch, group: str) -> None:
    honest, every = fit.fit_item_features, made_items()
    if group == "text":
        more = {"item_id": [f"x{n}" for n in range(200)], "title": "red house", "genres": "drama"}
        every = pd.concat([every, every.iloc[[0] * 200].assign(**more)])

    def of_all(listed: pd.DataFrame, dimensions: int, seed: int) -> tuple[np.ndarray, dict[str, int]]:
        others = every[~every["item_id"].isin(listed["item_id"])]
        made, widths = honest(pd.concat([listed, others])[listed.columns], dimensions, seed)
        drop = widths["genres"] - honest(listed, dimensions, seed)[1]["genres"]
        assert drop == 1  # western, the genre of the later item, stands last
        kept = np.delete(made[: len(listed) + 1], widths["genres"] - 1, axis=1)
        return kept, widths | {"genres": widths["genres"] - 1}

    monkeypatch.setattr(fit, "fit_item_features", of_all)
    features = features_of(events)
    monkeypatch.setattr(fit, "fit_item_features", honest)

    found = {one.what for one in fitted_statistics.content(cut_of(events, features)).findings}

    assert f"item features of the group {group!r} were not fitted on the past" in found
    assert fitted_statistics.content(cut_of(events)).findings == []


def test_a_genre_that_only_later_items_have_is_found(events: pd.DataFrame) -> None:
    features = features_of(events)
    features.description["content_widths"]["genres"] += 1

    assert "other columns" in fitted_statistics.content(cut_of(events, features)).findings[0].what


def test_trends_that_count_later_events_are_found_by_channel(events, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = TrendLog._leaving
    monkeypatch.setattr(TrendLog, "_leaving", lambda self, span: honest(self, span + DAY))

    found = [one.what for one in fitted_statistics.trends(cut_of(events)).findings]

    assert found == [f"the trend window_{days}d at the cut is not what the past holds" for days in (1, 3, 7, 30)]


@pytest.mark.parametrize("cut_us", [VALID, TEST])
def test_counting_by_hand_agrees_with_the_trends_of_features(events: pd.DataFrame, cut_us: int) -> None:
    name = "valid" if cut_us == VALID else "test"
    at = cut_of(events, name=name)

    assert fitted_statistics.trends(at).findings == []
    assert at.features.trend_log().at(np.array([cut_us]), ["window_1d"]).sum() > 0
    assert set(at.features.description["channels"]) >= {
        f"window_{days}d" for days in SETTINGS.featurize.trends.windows_days
    }
