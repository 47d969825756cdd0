"""The page: verdict, reason and what to do next on top, then the evidence; every kind of report makes one."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from gate_reports import report

from experiments.gating.report_checks import Line, checks, picture
from experiments.gating.report_page import page


def test_the_verdict_the_reason_and_what_to_do_next_stand_first_and_escaped() -> None:
    html = page(report())
    top = html[: html.index("<h2>")]

    assert "REJECT: two_tower is turned down, ease (version 3) stays champion" in top
    assert "Worse for &lt;some&gt;" in top
    assert "Fit again: <code>dvc repro</code>" in top


@pytest.mark.parametrize("verdict", ["PROMOTE", "HOLD", "REJECT", "INSUFFICIENT_DATA"])
def test_every_verdict_has_a_page_that_fetches_nothing(verdict: str) -> None:
    html = page(report(verdict=verdict))

    assert verdict.replace("_", " ") in html
    assert not re.search(r"<script|src=|href=|url\(|http", html)


def test_each_check_says_how_it_came_out() -> None:
    states = {row.name: row.state for row in checks(report())}

    assert states["Better than the champion on next_item"] == "ok"
    assert states["Not worse than the champion on horizon"] == "ok"
    assert states["No segment loses"] == "bad"
    assert states["Fresh data"] == "none"
    assert {"Enough users", "Champion answers as it did at export", "Lists: coverage", "Cost: size"} <= set(states)


@pytest.mark.parametrize(
    ("measured", "says", "state"),
    [
        (None, "not measured", "none"),
        (0.97, "history 90.0% [80.0%, 97.0%] of 50 match (2026-11-25, skew.html)", "ok"),
        (0.94, "history 90.0% [80.0%, 94.0%] of 50 match (2026-11-25, skew.html)", "bad"),
    ],
)
def test_skew_is_a_row_that_says_what_matches_or_that_nobody_measured(
    measured: float | None, says: str, state: str
) -> None:
    history = {"compared": 50, "match_rate": 0.9, "low": 0.8, "high": measured}
    groups = {"history": history, "trends": {"compared": 0, "match_rate": None, "low": 0.0, "high": 1.0}}
    skew = measured and {"date": "2026-11-25T10:00:00Z", "groups": groups}

    (row,) = [row for row in checks(report(skew=skew)) if row.name == "Serving reads what the data set tells"]
    assert (row.found, row.state) == (says, state)
    assert says in page(report(skew=skew))


def test_provenance_names_policy_looks_window_commits_and_data() -> None:
    html = page(report())

    for told in ("0a1b", "look 2: alpha = 0.05 / 2", "2026-06-01 00:00 to 2026-06-30 23:59 UTC", "0123", "d1", "s1"):
        assert told in html


def test_the_picture_is_well_formed_and_leaves_out_untested_segments() -> None:
    html = page(report())
    drawn = ElementTree.fromstring(html[html.index("<svg") : html.index("</svg>") + 6])
    words = [node.text for node in drawn.iter("text")]

    assert "cold, next_item" in words
    assert "lapsed, next_item" not in words
    assert "lapsed" in html


def test_an_interval_lies_where_its_numbers_say() -> None:
    drawn = ElementTree.fromstring(picture([("group", [Line("one", 0.0, -0.1, 0.1, 0.0, "red", "told")])]))
    (circle,) = drawn.iter("circle")
    (bar,) = [node for node in drawn.iter("line") if node.get("stroke") == "red"]
    zero = next(node for node in drawn.iter("line") if node.get("stroke-width") == "1.5")

    assert circle.get("cx") == zero.get("x1")
    middle = (float(bar.get("x1", 0)) + float(bar.get("x2", 0))) / 2
    assert middle == pytest.approx(float(zero.get("x1", 0)), abs=0.1)


@pytest.mark.parametrize(
    "changes",
    [
        {"evidence": {}, "against_version": None, "version": "1"},
        {"evidence": {"budgets": []}, "looks": None},
        {"evidence": {"targets": {"next_item": {"users": 3}}}, "policy": {"primary": "next_item", "alpha": 0.05}},  # of an older gate
    ],
)  # fmt: skip
def test_a_report_that_looked_at_nothing_has_a_page_too(changes: dict) -> None:
    kept = {key: value for key, value in (report() | changes).items() if value is not None}

    assert page(kept).startswith("<!doctype html>")


def test_unknown_code_and_overrides_are_loud() -> None:
    code = {"commit": "unknown", "changed": None, "unknown": "git is not here"}
    html = page(report(code=code, overrides=["judged with uncommitted code: a.py"]))

    assert "OVERRIDE: judged with uncommitted code: a.py" in html
    assert "git is not here" in html
