"""The gate report as page, comment and terminal line: the verdict first, then the evidence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from gate_reports import contrast, report

from experiments import gate
from experiments.gating.report_page import checks, markdown, page, summary


def test_verdict_reason_and_next_step_come_first_and_are_escaped() -> None:
    html = page(report())
    top = html[: html.index("<h2>")]

    assert "REJECT: two_tower is rejected; ease (version 3) stays the champion" in top
    assert "worse for &lt;some&gt;" in top
    assert "Fit again: <code>dvc repro</code>" in top


@pytest.mark.parametrize("verdict", ["PROMOTE", "HOLD", "REJECT", "INSUFFICIENT_DATA"])
def test_every_verdict_has_a_page_that_fetches_nothing(verdict: str) -> None:
    html = page(report(verdict=verdict))

    assert verdict.replace("_", " ") in html
    assert not re.search(r"<script|src=|href=|url\(|http", html)


def test_each_check_has_a_state() -> None:
    states = {row.name: row.state for row in checks(report())}

    assert states["Better than the champion on next_item"] == "ok"
    assert states["Not worse than the champion on horizon"] == "ok"
    assert states["No segment loses"] == "bad"
    assert states["Fresh data"] == "none"
    assert {"Enough users", "Champion answers as at export", "Lists: coverage", "Cost: size"} <= set(states)


@pytest.mark.parametrize(
    ("measured", "says", "state"),
    [
        (None, "not measured", "none"),
        (0.97, "history 90.0% [80.0%, 97.0%] of 50 match (2026-11-25, skew.html)", "ok"),
        (0.94, "history 90.0% [80.0%, 94.0%] of 50 match (2026-11-25, skew.html)", "bad"),
    ],
)
def test_the_skew_check_says_what_matches_or_that_nothing_was_measured(
    measured: float | None, says: str, state: str
) -> None:
    history = {"compared": 50, "match_rate": 0.9, "low": 0.8, "high": measured}
    groups = {"history": history, "trends": {"compared": 0, "match_rate": None, "low": 0.0, "high": 1.0}}
    skew = measured and {"date": "2026-11-25T10:00:00Z", "groups": groups}

    (row,) = [row for row in checks(report(skew=skew)) if row.name == "Serving reads what the dataset holds"]
    assert (row.found, row.state) == (says, state)
    assert says in page(report(skew=skew))


def test_provenance_names_policy_looks_holdout_commits_and_data() -> None:
    html = page(report())

    for text in ("0a1b", "look 2: alpha = 0.05 / 2", "2026-06-01 00:00 to 2026-06-30 23:59 UTC", "0123", "d1", "s1"):
        assert text in html


def test_a_segment_with_too_few_users_is_listed_and_not_decided() -> None:
    html = page(report())

    assert "lapsed" in html
    assert '<span class="none">– not decided</span>' in html


def test_a_check_with_nothing_to_check_is_neither_passed_nor_failed() -> None:
    nobody = dict.fromkeys(contrast(0.0, 0.0)) | {"users": 0, "cases": 0}
    rail = {"name": "diversity", "candidate": None, "champion": None, "kind": "at least", "limit": None, "within": True}
    evidence = report()["evidence"] | {
        "comparisons": {"champion": {"horizon": nobody, "next_item": nobody}, "baseline": None},
        "guard_rails": [rail],
        "leakage_checks": 30,
        "leakage_undecided": ["target probe (test)"],
    }
    empty = report(verdict="INSUFFICIENT_DATA", evidence=evidence)

    states = {row.name: row.state for row in checks(empty)}
    for name in ("Enough users", "Better than the champion on next_item", "Not worse than the champion on horizon"):
        assert states[name] == "none", name
    assert states["Lists: diversity"] == "none"
    assert "clean: 30 checks (audit.html); not decided: target probe (test)" in markdown(empty)
    assert "– not decided" in page(empty)


@pytest.mark.parametrize(
    "changes",
    [
        {"evidence": {}, "against_version": None, "version": "1"},
        {"evidence": {"budgets": []}, "looks": None},
    ],
)
def test_a_report_without_a_look_has_a_page_too(changes: dict) -> None:
    kept = {key: value for key, value in (report() | changes).items() if value is not None}

    assert page(kept).startswith("<!doctype html>")


def test_unknown_code_and_overrides_are_loud() -> None:
    code = {"commit": "unknown", "changed": None, "unknown": "git is not installed"}
    html = page(report(code=code, overrides=["judged with uncommitted code: a.py"]))

    assert "OVERRIDE: judged with uncommitted code: a.py" in html
    assert "git is not installed" in html


def test_a_comment_holds_verdict_reason_next_step_and_every_check() -> None:
    text = markdown(report(overrides=["4 stands by override: fire"]))

    assert text.startswith("## 🔴 REJECT: two_tower is rejected; ease (version 3) stays the champion")
    assert "worse for <some>." in text
    assert "**Next:** fit again: `dvc repro`." in text
    assert "> **OVERRIDE**: 4 stands by override: fire" in text
    assert len(re.findall(r"^\| .* \| .* \| .* \| [✓✗?–] ", text, re.MULTILINE)) >= 4


@pytest.mark.parametrize("verdict", ["PROMOTE", "HOLD", "INSUFFICIENT_DATA", "OVERRIDE"])
def test_every_verdict_has_a_comment(verdict: str) -> None:
    assert verdict.replace("_", " ") in markdown(report(verdict=verdict, evidence={}))


def test_the_last_line_says_the_verdict_its_reason_and_where_the_page_is() -> None:
    sound = report(
        verdict="PROMOTE", reason="next_item +12.1% [+8.0%, +16.3%]", overrides=["4 stands by override: fire"]
    )

    assert summary(sound, Path("gate.html")).splitlines() == [
        "OVERRIDE: 4 stands by override: fire",
        "PROMOTE two_tower (version 7) over ease (version 3): next_item +12.1% [+8.0%, +16.3%]; report: gate.html",
    ]


def test_a_missing_report_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert gate.main(["--comment"]) == 2
    assert capsys.readouterr().err == "error: out/experiments/gate.json does not exist; run `make gate` first\n"
