"""The result file holds the measured numbers, and the decay curve every case of its period."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from made_board import SKILL, run

from experiments.leaderboard.board import METRICS, PERIODS, decay_curve, rounded

CUT = pd.Timestamp("2026-01-01", tz="UTC")


def rankings(days: list[float], ranks: list[int]) -> pd.DataFrame:
    """One window case at the cut, and one `next_item` case of a user of its own on each day."""
    cases = [{"case_id": "w", "user_id": "u0", "target": "horizon", "time": CUT, "true_ranks": [1]}]
    for number, (day, rank) in enumerate(zip(days, ranks, strict=True)):
        time = CUT + pd.Timedelta(days=day)
        cases.append(
            {
                "case_id": f"n{number}",
                "user_id": f"u{number}",
                "target": "next_item",
                "time": time,
                "true_ranks": [rank],
            }
        )
    return pd.DataFrame(cases)


def test_each_period_has_the_mean_of_its_own_cases() -> None:
    found = decay_curve([rankings([0, 1, 79, 80], [1, 3, 11, 1])], seed=0, resamples=100)

    assert [one["cases"] for one in found] == [2, 2]  # the first and the last eighth of 80 days
    assert found[0]["mean"] == pytest.approx((1 + 1 / 2) / 2)  # 1 / log2(1 + 1) and 1 / log2(3 + 1)
    assert found[1]["mean"] == pytest.approx((0 + 1) / 2)
    assert found[0]["from_day"] == 0
    assert found[0]["to_day"] == pytest.approx(80 / PERIODS)


def test_seeds_are_averaged_before_the_periods_are_formed() -> None:
    one, other = rankings([0, 1], [1, 1]), rankings([0, 1], [11, 11])

    found = decay_curve([one, other], seed=0, resamples=100)

    assert np.average([p["mean"] for p in found], weights=[p["cases"] for p in found]) == pytest.approx(0.5)


def test_without_cases_there_is_no_curve() -> None:
    assert decay_curve([rankings([], [])], seed=0, resamples=100) == []


def test_the_result_file_has_the_agreed_shape(out, tmp_path):
    result = json.loads(run(out, tmp_path, registered="ours")[0])
    assert set(result) == {
        "dataset", "dataset_hash", "split_id", "commit", "date", "command", "seeds", "registered", "best_baseline",
        "models", "comparisons", "oracle", "decay",
    }  # fmt: skip
    assert result["registered"] == "ours"
    assert result["seeds"] == [0, 1]
    assert set(result["models"]) == {"popularity", "ease", "ours"}
    ours = result["models"]["ours"]["targets"]
    assert set(ours) == {"horizon", "next_item"}
    assert ours["horizon"]["users"] == ours["horizon"]["cases"] == 40
    assert set(ours["next_item"]["metrics"]["ndcg@10"]) == {"mean", "low", "high"}
    assert set(ours["next_item"]["slices"]) == {"cold", "warm"}
    assert set(ours["next_item"]["metrics"]) == set(METRICS)


def test_the_same_files_give_the_same_result_to_the_byte(out, tmp_path):
    assert run(out, tmp_path)[:2] == run(out, tmp_path)[:2]


def test_the_result_is_small_and_rounded_but_params_are_not(out, tmp_path):
    text = run(out, tmp_path)[0]
    assert len(text) / len(SKILL) < 200_000 / 30  # thirty models stay below 200 kB
    model = json.loads(text)["models"]["ours"]
    assert model["fit_seconds"] == 1.23457
    assert model["params"] == {"rate": 0.123456789}
    assert rounded({"a": [0.000123456789, None, 7, True, "x"]}) == {"a": [0.000123457, None, 7, True, "x"]}


def test_result_numbers_are_those_of_the_metrics_file(out, tmp_path):
    result = json.loads(run(out, tmp_path)[0])

    assert result["models"]
    for label, model in result["models"].items():
        assert model["targets"], label
        stored = json.loads((out / "metrics" / f"{label}.json").read_text(encoding="utf-8"))["targets"]
        for target, found in model["targets"].items():
            for key, entry in found["metrics"].items():
                assert entry == pytest.approx(stored[target]["metrics"][key], rel=1e-5), (label, target, key)
