"""An item that is known, counted or recommended before its first event is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from made_cut import TEST, cut_of, features_of, moments

from data.columns import DAY
from data.times import to_iso
from experiments.leakage import future_features
from features import fit
from features.trends import TrendLog
from features.vocabulary import Vocabulary


def test_an_item_of_the_future_in_the_vocabulary_is_found_with_its_first_event(events: pd.DataFrame) -> None:
    every = replace(features_of(events), vocabulary=Vocabulary([*fit.order_items(events), "nobody's"]))

    (found,) = future_features.vocabulary(cut_of(events, every)).findings

    first = events.loc[events["item_id"] == "i119", "event_time"].min()
    assert found.examples == [
        {"item_id": "i119", "first known": to_iso(first.value // 1000 + 1)},
        {"item_id": "nobody's", "first known": "never"},
    ]


def test_an_item_that_was_known_only_after_the_cut_is_one_of_the_future(events: pd.DataFrame) -> None:
    features = features_of(events)
    events.loc[events["item_id"] == "i007", "known_time"] += pd.Timedelta(days=100)

    (found,) = future_features.vocabulary(cut_of(events, features)).findings

    assert [one["item_id"] for one in found.examples] == ["i007"]


def test_a_trend_that_counts_an_item_before_its_first_event_is_found(events, monkeypatch: pytest.MonkeyPatch) -> None:
    assert future_features.trends(cut_of(events)).findings == []
    honest = TrendLog._count
    monkeypatch.setattr(TrendLog, "_count", lambda self, when, items, at: honest(self, when - DAY, items, at))

    (found,) = future_features.trends(cut_of(events)).findings

    assert found.rows == 119
    assert found.examples[0]["counted"].startswith("all ")
    assert "half_life" not in found.examples[0]["counted"]


def test_a_list_with_an_item_of_the_future_is_found_with_model_user_and_time(
    events: pd.DataFrame, tmp_path: Path
) -> None:
    table = pd.DataFrame({
        "user_id": ["u01", "u02"], "time": moments([TEST, TEST + 16 * DAY]), "ranked": [["i001", "i119"], ["i119", "i002"]],
    })  # fmt: skip
    table.to_parquet(tmp_path / "ease.parquet")
    at = cut_of(events, rankings={"ease": tmp_path / "ease.parquet"})

    outcome = future_features.rankings(at)

    assert outcome.rows == 4
    (found,) = outcome.findings
    assert (found.what, found.rows) == ("ease recommends items before their first event", 1)
    assert (found.examples[0]["user_id"], found.examples[0]["recommended at"]) == ("u01", to_iso(TEST))
