"""What the benchmark of serving concludes from its figures, what it refuses, and that it runs from end to end."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks import serving
from benchmarks._load import HANDLER, NOOP, PROGRAMS, Load, pooled
from benchmarks.serving import CACHED, EDGE, figures, ratio, table
from config.paths import ROOT


def point(per_second: float, p50_ms: float = 1.0, p99_ms: float = 2.0, **bad: int) -> Load:
    """Ten seconds of load."""
    counts = {"refused": 0, "other": 0, "broken": 0, "late": 0} | bad
    return Load(round(per_second * 10), 10.0, p50_ms, p99_ms, **counts)


FIRST = {
    (NOOP, 1): point(1000, p50_ms=0.5), (HANDLER, 1): point(300, p50_ms=2.1), (EDGE, 1): point(60),
    (CACHED, 1): point(1500),
    (NOOP, 8): point(2000, p99_ms=4), (HANDLER, 8): point(1200, p99_ms=6), (EDGE, 8): point(900, p99_ms=49, other=7),
    (CACHED, 8): point(1000, refused=3, late=2),
}  # fmt: skip
SECOND = FIRST | {(HANDLER, 1): point(300, p50_ms=4.6), (HANDLER, 8): point(1000), (EDGE, 8): point(900, p99_ms=70)}
THIRD = FIRST | {(HANDLER, 1): point(300, p50_ms=4.5), (HANDLER, 8): point(1400), (CACHED, 8): point(1000, refused=1)}
RUNS = [FIRST, SECOND, THIRD]


def spread(median: float, low: float, high: float) -> dict[str, float]:
    return {"median": round(median, 3), "low": round(low, 3), "high": round(high, 3)}


def test_rounds_of_a_point_become_one() -> None:
    rounds = [point(100, p50_ms=1, p99_ms=9, late=1), point(400, p50_ms=3, p99_ms=4), point(400, p50_ms=2, p99_ms=5)]

    assert pooled(rounds) == Load(9000, 30.0, p50_ms=2, p99_ms=5, refused=0, other=0, broken=0, late=1)


def test_a_ratio_compares_cases_of_the_same_run_and_concurrency() -> None:
    assert ratio(RUNS, HANDLER, NOOP, 8) == spread(1200 / 2000, 1000 / 2000, 1400 / 2000)
    assert ratio(RUNS, CACHED, NOOP, 1) == spread(1.5, 1.5, 1.5)


def test_the_median_over_the_runs_meets_a_target_or_misses_it() -> None:
    found = {}
    for target in figures(RUNS)["targets"]:
        found[target["concurrency"], target["target"]] = (
            {k: target[k] for k in ("median", "low", "high")},
            target["met"],
        )

    assert found == {
        (1, "handler p50 minus no-op p50, ms"): (spread(4.0, 2.1 - 0.5, 4.6 - 0.5), True),
        (1, "edge / handler, requests/s"): (spread(0.2, 0.2, 0.2), False),
        (8, "handler / no-op, requests/s"): (spread(0.6, 0.5, 0.7), True),
        (8, "edge / handler, requests/s"): (spread(900 / 1200, 900 / 1400, 900 / 1000), True),
        (8, "edge p99, ms"): (spread(49, 49, 70), True),
    }


def test_the_table_and_the_file_give_the_median_and_the_range() -> None:
    stored = {(one["case"], one["concurrency"]): one for one in figures(RUNS)["points"]}

    assert stored[HANDLER, 8]["requests_per_second"] == {"median": 1200.0, "low": 1000.0, "high": 1400.0}
    assert "met     at  8: handler / no-op, requests/s: 0.60 [0.50, 0.70], at least 0.6" in table(figures(RUNS))
    assert "MISSED  at  1: edge / handler, requests/s: 0.20 [0.20, 0.20], at least 0.3" in table(figures(RUNS))


def test_what_went_wrong_is_counted_over_all_runs() -> None:
    row = next(line for line in table(figures(RUNS)).splitlines() if line.startswith(f"{CACHED} ") and " 8 " in line)
    stored = {(one["case"], one["concurrency"]): one for one in figures(RUNS)["points"]}

    assert row.split()[-2:] == ["11", "0"]
    assert (stored[CACHED, 8]["not_200"], stored[CACHED, 8]["failed"]) == (7, 4)
    assert stored[EDGE, 8]["not_personal"] == 14


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seconds", "0"], "--seconds is 0; expected at least 1"),
        (["--seconds", "nan"], "--seconds is nan; expected at least 1"),
        (["--concurrency", "8", "0"], "--concurrency is 0; expected at least 1"),
        (["--runs", "0"], "--runs is 0; expected at least 1"),
        (["--rounds", "0"], "--rounds is 0; expected at least 1"),
        (["--soak", "-1"], "--soak is -1; expected 0 or more requests"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert serving.main(arguments) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_without_wrk_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert serving.main([]) == 0
    message = "serving: wrk is not on the path (Debian: apt-get install wrk); not measured\n"
    assert capsys.readouterr().out == message


@pytest.mark.slow
def test_it_measures_every_case_with_real_servers_and_watches_memory(run_command) -> None:
    for program in PROGRAMS:
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program} on the path")
    recorded = ROOT / "benchmarks" / "results" / "serving.json"
    before = recorded.exists() and recorded.read_bytes()

    ended = run_command("benchmarks.serving", "--quick", "--runs", "2", "--soak", "30", timeout=900)

    assert ended.returncode == 0, ended.stderr
    rows = {(line[:12].strip(), line[12:18].strip()): line.split() for line in ended.stdout.splitlines() if line}
    for case in (NOOP, HANDLER, EDGE, CACHED):
        for count in ("1", "8"):
            assert float(rows[case, count][-14].replace(",", "")) > 0
    for count in ("1", "8"):
        assert rows[HANDLER, count][-2:] == ["0", "0"], "every answer is a 200, and rests on the profile in Redis"
    counts = [int(line.split()[1].replace(",", "")) for line in ended.stdout.splitlines() if line.endswith(" MB")]
    assert counts[0] == 0
    assert all(count >= 10 * third for third, count in enumerate(counts))
    assert len(counts) == 4
    assert (recorded.exists() and recorded.read_bytes()) == before, "a quick look is no record"
