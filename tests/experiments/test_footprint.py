"""What an artifact costs: bytes of its files, and the median time of an answer by whatever clock counts."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from config import params
from experiments.gating.evidence import ROUNDS, budgets, latencies, size_mb

POLICY = params.load(params.ROOT / "params.yaml").gate.budgets.model_copy(
    update={"size_mb": 10.0, "latency_ms": 50.0, "latency_ratio": 2.0, "latency_free_ms": 5.0}
)


def test_the_size_is_that_of_all_files(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "one").write_bytes(b"x" * 1_500_000)
    (tmp_path / "inner" / "two").write_bytes(b"x" * 500_000)

    assert size_mb(tmp_path) == 2.0


def test_a_first_round_is_asked_and_not_counted() -> None:
    asked: list[str] = []
    ticks = count()
    one: Any = SimpleNamespace(golden=lambda: [{"request": "a"}, {"request": "b"}], recommend=asked.extend)

    found = latencies({"candidate": one}, clock=lambda: next(ticks) * 0.002)

    assert asked == ["a", "b"] * (ROUNDS + 1)
    assert 1.999 < found["candidate"] < 2.001


def limit_of(champion_ms: float, candidate_ms: float) -> tuple[float, bool]:
    sizes = {"candidate": 1.0, "champion": 1.0}
    _, latency = budgets(sizes, {"candidate": candidate_ms, "champion": champion_ms}, POLICY)
    return latency["limit"], latency["within"]


def test_a_candidate_may_be_twice_as_slow_as_the_champion_and_no_slower() -> None:
    assert limit_of(champion_ms=8.0, candidate_ms=16.0) == (16.0, True)
    assert limit_of(champion_ms=8.0, candidate_ms=16.1) == (16.0, False)


def test_the_ratio_does_not_count_where_both_are_fast() -> None:
    assert limit_of(champion_ms=0.5, candidate_ms=4.9) == (5.0, True)


def test_no_ratio_excuses_what_is_slow() -> None:
    assert limit_of(champion_ms=40.0, candidate_ms=51.0) == (50.0, False)


def test_the_size_is_held_to_its_own_bound() -> None:
    speeds = {"candidate": 1.0, "champion": 1.0}
    size, _ = budgets({"candidate": 10.5, "champion": 99.0}, speeds, POLICY)

    assert (size["limit"], size["within"]) == (10.0, False)
