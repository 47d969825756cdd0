"""What the benchmark of serving concludes from its figures, what it refuses, and that it runs from end to end."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks import serving
from benchmarks._load import Load, pooled
from benchmarks._serving_report import CACHED, EDGE, HANDLER, NOOP, aims, figures, ratios, table
from config.params import ROOT


def point(per_second: float, p50_ms: float = 1.0, p99_ms: float = 2.0, **bad: int) -> Load:
    """Ten seconds of load."""
    counts = {"refused": 0, "other": 0, "broken": 0, "late": 0} | bad
    return Load(round(per_second * 10), 10.0, p50_ms, p99_ms, **counts)


POINTS = {
    (NOOP, 1): point(1000, p50_ms=0.5), (HANDLER, 1): point(300, p50_ms=2.1), (EDGE, 1): point(200),
    (CACHED, 1): point(1500),
    (NOOP, 8): point(2000, p99_ms=4), (HANDLER, 8): point(3000, p99_ms=6), (EDGE, 8): point(900, other=7),
    (CACHED, 8): point(1000, refused=3, late=2),
}  # fmt: skip


def test_rounds_of_a_point_become_one() -> None:
    rounds = [point(100, p50_ms=1, p99_ms=9, late=1), point(400, p50_ms=3, p99_ms=4), point(400, p50_ms=2, p99_ms=5)]

    assert pooled(rounds) == Load(9000, 30.0, p50_ms=2, p99_ms=5, refused=0, other=0, broken=0, late=1)


def test_ratios_are_to_the_no_op_of_the_same_concurrency() -> None:
    found = ratios(POINTS)

    assert found[HANDLER, 1] == 300 / 1000
    assert found[HANDLER, 8] == 3000 / 2000
    assert found[CACHED, 8] == 1000 / 2000


def test_a_target_is_met_at_its_bound_and_missed_beyond_it() -> None:
    met = {(aim.concurrency, aim.text): (round(aim.figure, 6), aim.met) for aim in aims(POINTS)}

    assert met == {
        (1, "handler's p50 less the no-op's, ms"): (1.6, False),
        (1, "edge's requests/s of the handler's"): (round(200 / 300, 6), True),
        (1, "cached edge's requests/s of the no-op's"): (1.5, True),
        (8, "handler's requests/s of the no-op's"): (1.5, True),
        (8, "handler's p99 of the no-op's"): (1.5, True),
        (8, "edge's requests/s of the handler's"): (0.3, False),
        (8, "cached edge's requests/s of the no-op's"): (0.5, True),
    }


def test_what_went_wrong_is_counted_in_the_table_and_the_file() -> None:
    row = next(line for line in table(POINTS).splitlines() if line.startswith(f"{CACHED} ") and " 8 " in line)
    stored = {(one["case"], one["concurrency"]): one for one in figures(POINTS)["points"]}

    assert row.split()[-2:] == ["5", "0"]
    assert (stored[CACHED, 8]["not_200"], stored[CACHED, 8]["failed"]) == (3, 2)
    assert stored[EDGE, 8]["not_personal"] == 7
    assert "MISSED  at  8: edge's requests/s of the handler's: 0.30 (at least 0.33)" in table(POINTS)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--seconds", "0"], "--seconds is 0; expected at least 1"),
        (["--seconds", "nan"], "--seconds is nan; expected at least 1"),
        (["--concurrency", "8", "0"], "--concurrency is 0; expected at least 1"),
        (["--rounds", "0"], "--rounds is 0; expected at least 1"),
        (["--soak", "-1"], "--soak is -1; expected 0 or more requests"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert serving.main(arguments) == 2
    assert capsys.readouterr().err == f"error: {told}\n"


def test_without_wrk_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert serving.main([]) == 0
    told = "serving: there is no wrk on the path (Debian: apt-get install wrk); not measured\n"
    assert capsys.readouterr().out == told


@pytest.mark.slow
def test_it_measures_every_case_with_real_servers_and_watches_memory(run_verb) -> None:
    for program in serving.PROGRAMS:
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program} on the path")
    recorded = ROOT / "benchmarks" / "results" / "serving.json"
    before = recorded.exists() and recorded.read_bytes()

    ended = run_verb("benchmarks.serving", "--quick", "--soak", "30", timeout=900)

    assert ended.returncode == 0, ended.stderr
    rows = {(line[:12].strip(), line[12:18].strip()): line.split() for line in ended.stdout.splitlines() if line}
    for case in (NOOP, HANDLER, EDGE, CACHED):
        for count in ("1", "8"):
            assert float(rows[case, count][-6].replace(",", "")) > 0
    for count in ("1", "8"):
        assert rows[HANDLER, count][-2:] == ["0", "0"], "every answer is a 200, and rests on the profile in Redis"
    asked = [int(line.split()[1].replace(",", "")) for line in ended.stdout.splitlines() if line.endswith(" MB")]
    assert asked[0] == 0
    assert all(count >= 10 * third for third, count in enumerate(asked))
    assert len(asked) == 4
    assert (recorded.exists() and recorded.read_bytes()) == before, "a quick look is no record"
