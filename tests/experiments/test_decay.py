"""The decay curve says what each period after the cut was worth, and leaves no case out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from experiments.leaderboard.board import PERIODS, decay

CUT = pd.Timestamp("2026-01-01", tz="UTC")


def rankings(days: list[float], ranks: list[int]) -> pd.DataFrame:
    """One `horizon` case at the cut, and one `next_item` case of a user of its own on each day."""
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
    found = decay([rankings([0, 1, 79, 80], [1, 3, 11, 1])], seed=0, resamples=100)

    assert [one["cases"] for one in found] == [2, 2]  # the first and the last eighth of 80 days
    assert found[0]["mean"] == pytest.approx((1 + 1 / 2) / 2)  # 1 / log2(1 + 1) and 1 / log2(3 + 1)
    assert found[1]["mean"] == pytest.approx((0 + 1) / 2)
    assert found[0]["from_day"] == 0
    assert found[0]["to_day"] == pytest.approx(80 / PERIODS)


def test_seeds_are_averaged_before_the_periods_are_formed() -> None:
    one, other = rankings([0, 1], [1, 1]), rankings([0, 1], [11, 11])

    found = decay([one, other], seed=0, resamples=100)

    assert np.average([p["mean"] for p in found], weights=[p["cases"] for p in found]) == pytest.approx(0.5)


def test_without_cases_there_is_no_curve() -> None:
    assert decay([rankings([], [])], seed=0, resamples=100) == []
