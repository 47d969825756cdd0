"""What the benchmark of fairness concludes from its figures, what it refuses, and that it runs from end to end."""

from __future__ import annotations

import shutil
from collections import Counter

import pytest

from benchmarks import fairness
from benchmarks._load import PROGRAMS, Load
from benchmarks.fairness import ALONE, ATTACKS, figures, table
from config.paths import ROOT


def measured(p50_ms: float, p99_ms: float, late: int = 0) -> Load:
    return Load(1000, 10.0, p50_ms, p99_ms, refused=0, other=0, broken=0, late=late)


RUNS = [
    {ALONE: measured(10, 20), "silent connections": measured(11, 30)},
    {ALONE: measured(20, 30), "silent connections": measured(30, 30, late=2)},
    {ALONE: measured(10, 25), "silent connections": measured(12, 75, late=1)},
]
SEEN = {ALONE: Counter(), "silent connections": Counter({"opened": 2000})}


def test_each_case_is_compared_with_the_client_alone_in_the_same_run() -> None:
    alone, silent = figures(RUNS, SEEN)
    assert alone["p50_ms_ratio"] == {"median": 1, "low": 1, "high": 1}
    assert silent["p50_ms"] == {"median": 12, "low": 11, "high": 30}
    assert silent["p50_ms_ratio"] == {"median": 12 / 10, "low": 11 / 10, "high": 30 / 20}
    assert silent["p99_ms_ratio"] == {"median": 30 / 20, "low": 30 / 30, "high": 75 / 25}
    assert (silent["bad"], silent["attack"]) == (3, {"opened": 2000})


def test_the_table_has_a_line_per_case() -> None:
    _, alone, silent = table(figures(RUNS, SEEN)).splitlines()
    assert alone.startswith(f"{ALONE} ")
    assert "1.20 [1.10, 1.50]" in silent
    assert silent.endswith("3  {'opened': 2000}")


@pytest.mark.parametrize("name", ["runs", "seconds"])
def test_a_mistake_is_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fairness.main([f"--{name}", "0"]) == 2
    assert capsys.readouterr().err == f"error: --{name} is 0; expected at least 1\n"


@pytest.mark.slow
def test_the_normal_client_is_served_under_every_attack(run_command) -> None:
    for program in PROGRAMS:
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program} on the path")
    recorded = ROOT / "benchmarks" / "results" / "fairness.json"
    before = recorded.exists() and recorded.read_bytes()

    ended = run_command("benchmarks.fairness", "--quick", timeout=900)

    assert ended.returncode == 0, ended.stderr
    rows = [line for line in ended.stdout.splitlines() if line.startswith((ALONE, *ATTACKS)) and "[" in line]
    assert len(rows) == 1 + len(ATTACKS)
    assert "'429'" in rows[1]  # most of the long histories
    assert "'opened'" in rows[-1]
    assert (recorded.exists() and recorded.read_bytes()) == before, "a quick look is no record"
