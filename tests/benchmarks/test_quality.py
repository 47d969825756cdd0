"""A figure is reproduced if it lies in the committed interval."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import quality


def result(label: str, mean: float, low: float = 0.0, high: float = 1.0) -> dict:
    """A result file with one model, whose figures are the same on both targets."""
    target = {"metrics": {"ndcg@10": {"mean": mean, "low": low, "high": high}}}
    return {"models": {label: {"targets": {"horizon": target, "next_item": target}}}}


def test_a_figure_is_reproduced_where_it_lies_in_the_committed_interval() -> None:
    then = result("ease", 0.10, low=0.09, high=0.11)

    near, far = (
        quality.compare_results(result("ease", 0.109), then),
        quality.compare_results(result("ease", 0.12), then),
    )

    assert [(row["target"], row["inside"]) for row in near] == [("horizon", True), ("next_item", True)]
    assert [row["inside"] for row in far] == [False, False]
    assert "outside the committed interval" in quality.report(far)
    assert "outside" not in quality.report(near)


def test_a_model_that_was_not_committed_is_left_out() -> None:
    assert quality.compare_results(result("new", 0.1), result("ease", 0.1)) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [("gone", "SOURCE: {} does not exist"), ("other", "experiments/results/other.json does not exist; choose")],
)
def test_what_cannot_be_reproduced_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture, source: str, message: str
) -> None:
    (tmp_path / "other").mkdir()

    assert quality.main(["--source", str(tmp_path / source)]) == 2

    assert message.format(tmp_path / source) in capsys.readouterr().err
