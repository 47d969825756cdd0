"""The leaderboard and its page show every number with its definition and provenance, and load nothing."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest
from made_board import ORIGIN, change, run
from made_rankings import made_rankings

from experiments.evaluation.comparison import MeasuredModel
from experiments.evaluation.measure import measure
from experiments.leaderboard.board import Board, result_file
from experiments.leaderboard.report import html_report, markdown_report, segment_rows, text_summary


def test_the_summary_has_every_model_with_both_targets_and_marks_baseline_and_candidate(out, tmp_path):
    result = json.loads(run(out, tmp_path, registered="ours")[0])
    head, *lines, sizes = text_summary(result, "next_item").splitlines()

    assert head.split()[0] == "model"
    assert [line.split("  ")[0] for line in lines] == ["best reachable", "ours+", "ease*", "popularity"]
    mean = result["models"]["ours"]["targets"]["horizon"]["metrics"]["ndcg@10"]["mean"]
    assert f"{mean:.4f} [" in lines[1]
    assert lines[1].endswith("1.2")
    assert "horizon: 40 users, 40 cases" in sizes


def test_leaderboard_sorts_by_ndcg_and_marks_best_baseline_registered_and_oracle(out, tmp_path):
    text = run(out, tmp_path, registered="ours")[1]
    tables = [part.splitlines() for part in text.split("## ")[1:3]]
    for table in tables:
        names = [line.split("|")[1].strip() for line in table if line.startswith("|")][2:]
        assert names == ["best reachable (oracle)", "ours (registered)", "ease (best baseline)", "popularity"]
    assert "40 users, 300 cases," in text or re.search(r"\d+ users, 300 cases, [\d.]+% of them cold", text)


def test_every_figure_bears_its_as_of_time_and_definition(out, tmp_path):
    _, text, page = run(out, tmp_path)
    for shown in (text, page):
        assert "As of 2026-05-01T00:00:00Z, commit c0ffee" in shown
        assert "Split s1 of data d1." in shown
        for name in ("ndcg", "recall", "coverage", "head_items", "warm", "cold"):
            assert f"| {name} |" in shown or f"<td>{name}<td>" in shown, name
    titles = re.findall(r'"title":\{"text":"([^"]*)"', page)
    figures = [title for title in titles if "sub" in title]
    assert len(figures) == 5  # two for each target, and how models age
    assert all("as of 2026-05-01T00:00:00Z, commit c0ffee, split s1" in title for title in figures)


def test_several_commits_and_commands_are_all_shown(out, tmp_path):
    change(out, "ours", commit="beef", date="2026-06-01T00:00:00Z", command="python -m other")
    text, leaderboard, _ = run(out, tmp_path)
    result = json.loads(text)
    assert (result["commit"], result["date"]) == ("beef, c0ffee", "2026-06-01T00:00:00Z")
    assert result["command"] == "python -m experiments.evaluate && python -m other"
    assert "by `python -m experiments.evaluate` and 1 more, all in made.json." in leaderboard


def test_the_score_with_frozen_trends_stands_beside_the_live_one(out, tmp_path):
    assert "frozen" not in run(out, tmp_path)[1].split("## Definitions")[0]
    path = out / "metrics" / "ours.json"
    targets = json.loads(path.read_text(encoding="utf-8"))["targets"]
    change(out, "ours", targets=targets | {"next_item_frozen": {"metrics": {"ndcg@10": {"mean": 0.07654}}}})
    result, text, _ = run(out, tmp_path)
    assert json.loads(result)["models"]["ours"]["targets"]["next_item_frozen"]["metrics"]["ndcg@10"]["mean"] == 0.07654
    row = next(line for line in text.split("## next")[1].splitlines() if line.startswith("| ours"))
    assert "| 0.0765 |" in row


def test_the_page_loads_nothing_from_elsewhere(out, tmp_path):
    page = run(out, tmp_path)[2]
    markup = re.sub(r"<script\b[^>]*>.*?</script>", "<script></script>", page, flags=re.DOTALL)
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page.split("<body>")[1])
    assert "http" not in markup
    assert not re.search(r"<script[^>]+src=", page)
    assert len(page) > 3_000_000  # plotly itself is inside


def test_names_cannot_break_the_page_or_the_table(out, tmp_path):
    (out / "metrics" / "ours.json").rename(out / "metrics" / "odd.json")
    change(out, "odd", label="<b>a|b</b>", rankings=["ours-0.parquet", "ours-1.parquet"])
    _, text, page = run(out, tmp_path)
    assert "<b>a\\|b</b>" in text
    assert "<td><b>a|b" not in page


# Segments

MEANINGS = {"segment:odd": "events at least 1", "segment:third": "events at least 2", "segment:empty": "events above 9"}


@pytest.fixture(scope="module")
def rankings() -> tuple[pd.DataFrame, pd.DataFrame]:
    (frame,), items = made_rankings(seed=3, users=20, cases=100)
    return frame, items


def measured_model(rankings: tuple[pd.DataFrame, pd.DataFrame], segments: dict[str, str]) -> MeasuredModel:
    frame, items = rankings
    facts = ORIGIN | {
        "label": "ease", "model": "ease", "params": {}, "fit_seconds": 1.0, "baseline": True, "learned": False,
        "seeds": [0], "targets": measure(frame, items, seed=0, resamples=100), "segments": segments,
    }  # fmt: skip
    return MeasuredModel.model_validate(facts)


def test_result_file_leaderboard_and_page_show_the_segments_in_use_and_what_they_are(rankings) -> None:
    board = Board("made", [measured_model(rankings, MEANINGS)])

    whole, text = result_file(board), markdown_report(board)

    assert whole["segments"] == MEANINGS
    for target in ("horizon", "next_item"):
        slices = whole["models"]["ease"]["targets"][target]["slices"]
        assert {"cold", "warm", "segment:odd", "segment:third"} == set(slices)
        cases = slices["segment:odd"]["cases"]
        row = segment_rows(board, target)[0]
        assert list(row)[1:] == [f"odd ({cases})", f"third ({slices['segment:third']['cases']})"]
        assert row[f"odd ({cases})"].startswith(f"{slices['segment:odd']['metrics']['ndcg@10']['mean']:.4f} [")
        assert f"| odd ({cases}) |" in text
        assert f"<th>odd ({cases})" in html_report(board)
    assert "| segment:empty | events above 9 |" in text


def test_a_board_without_segments_says_nothing_of_them(rankings) -> None:
    frame, items = rankings
    plain = measured_model((frame.drop(columns="segments"), items), {})

    board = Board("made", [plain])

    assert "segments" not in result_file(board)
    assert "by segment" not in markdown_report(board)
