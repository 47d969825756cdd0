"""The result file, the leaderboard and its page: what stands in them, and what they cannot be made to say."""

from __future__ import annotations

import json
import re

import pytest
from made_board import SKILL, change, run

from experiments.leaderboard.board import MAIN, rounded
from experiments.leaderboard.markdown import summary


def test_the_result_file_has_the_agreed_shape(out, tmp_path):
    result = json.loads(run(out, tmp_path, registered="ours")[0])
    assert set(result) == {
        "dataset", "dataset_hash", "split_id", "commit", "date", "command", "seeds", "registered", "best_baseline",
        "models", "comparisons", "oracle", "decay",
    }  # fmt: skip
    assert result["registered"] == "ours"
    assert result["seeds"] == [0, 1]
    assert set(result["models"]) == {"popularity", "ease", "ours"}
    ours = result["models"]["ours"]["targets"]
    assert set(ours) == {"horizon", "next_item"}
    assert ours["horizon"]["users"] == ours["horizon"]["cases"] == 40
    assert set(ours["next_item"]["metrics"]["ndcg@10"]) == {"mean", "low", "high"}
    assert set(ours["next_item"]["slices"]) == {"cold", "warm"}
    assert set(ours["next_item"]["metrics"]) == set(MAIN)


def test_the_summary_has_every_model_with_both_targets_and_marks_peer_and_candidate(out, tmp_path):
    result = json.loads(run(out, tmp_path, registered="ours")[0])
    head, *lines, sizes = summary(result, "next_item").splitlines()

    assert head.split()[0] == "model"
    assert [line.split("  ")[0] for line in lines] == ["best reachable", "ours+", "ease*", "popularity"]
    mean = result["models"]["ours"]["targets"]["horizon"]["metrics"]["ndcg@10"]["mean"]
    assert f"{mean:.4f} [" in lines[1]
    assert lines[1].endswith("1.2")
    assert "horizon: 40 users, 40 cases" in sizes


def test_the_same_files_give_the_same_result_to_the_byte(out, tmp_path):
    assert run(out, tmp_path)[:2] == run(out, tmp_path)[:2]


def test_the_result_is_small_and_rounded_but_params_are_not(out, tmp_path):
    text = run(out, tmp_path)[0]
    assert len(text) / len(SKILL) < 200_000 / 30  # thirty models stay below 200 kB
    model = json.loads(text)["models"]["ours"]
    assert model["fit_seconds"] == 1.23457
    assert model["params"] == {"rate": 0.123456789}
    assert rounded({"a": [0.000123456789, None, 7, True, "x"]}) == {"a": [0.000123457, None, 7, True, "x"]}


def test_result_numbers_are_those_of_the_metrics_file(out, tmp_path):
    result = json.loads(run(out, tmp_path)[0])

    assert result["models"]
    for label, model in result["models"].items():
        assert model["targets"], label
        stored = json.loads((out / "metrics" / f"{label}.json").read_text())["targets"]
        for target, found in model["targets"].items():
            for key, entry in found["metrics"].items():
                assert entry == pytest.approx(stored[target]["metrics"][key], rel=1e-5), (label, target, key)


def test_leaderboard_sorts_by_ndcg_and_marks_best_peer_registered_and_oracle(out, tmp_path):
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
            assert re.search(f"<dt><b>{name}</b>|- \\*\\*{name}\\*\\*:", shown), name
    titles = re.findall(r'"title":\{"text":"([^"]*)"', page)
    figures = [title for title in titles if "sub" in title]
    assert len(figures) == 7  # three a target, and how models age
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
    targets = json.loads(path.read_text())["targets"]
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
