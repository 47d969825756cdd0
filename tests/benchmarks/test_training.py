"""A curve reaches a mark at the end of an epoch, and validation does not count."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.training import LearningCurve, Stopwatch, list_ndcg, visible_events
from features.sequences import EvaluationCases, InteractionLog

CURVE = LearningCurve(epoch_events=1000, seconds=[2.0, 4.0, 6.0, 8.0], ndcg=[0.01, 0.05, 0.04, 0.06])


def test_a_mark_is_reached_at_the_end_of_the_first_epoch_that_is_as_good() -> None:
    assert CURVE.seconds_to(0.05) == 4.0
    assert CURVE.seconds_to(0.055) == 8.0


def test_a_mark_above_the_whole_curve_is_never_reached() -> None:
    assert CURVE.seconds_to(0.07) is None
    assert CURVE.figures(0.07)["seconds_to_mark"] is None


def test_speed_is_over_all_seconds_of_the_fit() -> None:
    figures = CURVE.figures(0.05)

    assert figures["epochs_per_second"] == 4 / 8
    assert figures["events_per_second"] == 4 * 1000 / 8


def test_excluded_work_does_not_count_even_if_it_fails() -> None:
    now = [0.0]

    def work(seconds: float) -> float:
        now[0] += seconds
        return 1 / seconds

    watch = Stopwatch(lambda: now[0])
    now[0] += 3
    watch.exclude(work)(10.0)
    with pytest.raises(ZeroDivisionError):
        watch.exclude(work)(0.0)
    now[0] += 2

    assert watch.seconds() == 5


def test_a_list_scores_by_the_rank_of_the_true_item() -> None:
    cases = cases_of(user=[0, 0, 0], time=[9, 9, 9], end=[0, 0, 0], truth=[5, 6, 7])
    lists = np.array([[5, 1, 2], [1, 2, 6], [1, 2, 3]])

    assert list_ndcg(lists, cases).tolist() == [1.0, 1 / np.log2(4), 0.0]


def test_a_case_sees_what_happened_before_it_and_was_known() -> None:
    # User 0 has rows 0 to 2, of which row 1 became known late; user 1 has rows 3 and 4.
    log = InteractionLog(
        offsets=np.array([0, 3, 5]),
        items=np.array([1, 2, 3, 4, 5]),
        times=np.array([1, 2, 3, 1, 6]),
        known=np.array([1, 9, 3, 1, 6]),
        context=np.zeros((5, 0), dtype=np.int64),
        traits=np.zeros((2, 0), dtype=np.int64),
    )
    rows, owner = visible_events(log, cases_of(user=[0, 1, 1], time=[4, 1, 7], end=[3, 3, 5], truth=[9, 9, 9]))

    assert rows.tolist() == [0, 2, 3, 4]
    assert owner.tolist() == [0, 0, 2, 2]


def cases_of(user: list[int], time: list[int], end: list[int], truth: list[int]) -> EvaluationCases:
    count = len(user)
    context, event = np.zeros((count, 0), dtype=np.int64), np.zeros(count, dtype=np.int64)
    columns = (np.array(column) for column in (user, time, end))
    return EvaluationCases("next_item", *columns, context, event, np.array(truth), np.arange(count + 1))
