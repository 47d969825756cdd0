"""From metrics files and rankings to the result file, the leaderboard and its page."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest

from experiments import compare
from experiments.board import MAIN, rounded
from experiments.comparison import best_on_validation, best_peer, compare_pair
from experiments.measure import measure
from experiments.measured import CompareError, Measured, read_metrics
from experiments.summary import summary
from tests.experiments.made_rankings import made_cases, made_items, rank

ORIGIN = {
    "dataset": "made", "dataset_hash": "d1", "split_id": "s1", "commit": "c0ffee", "date": "2026-05-01T00:00:00Z",
    "command": "python -m experiments.evaluate",
}  # fmt: skip
SKILL = {"popularity": 0.5, "ease": 1.0, "ours": 5.0, "oracle": 9.0}


def write_model(out, label, frames, items, **changes):
    """What evaluate writes of one model."""
    names = [f"{label}-{n}.parquet" for n in range(len(frames))]
    for name, frame in zip(names, frames, strict=True):
        frame.to_parquet(out / "rankings" / name)
    facts = ORIGIN | {
        "label": label, "model": label, "params": {"rate": 0.123456789}, "fit_seconds": 1.23456789,
        "peer": label in ("popularity", "ease"), "learned": label == "ours", "oracle": label == "oracle",
        "seeds": list(range(len(frames))), "rankings": names, "validation": {"next": {"ndcg@10": 0.5}},
        "targets": measure(frames, items, seed=0, resamples=200),
    }  # fmt: skip
    (out / "metrics" / f"{label}.json").write_text(json.dumps(facts | changes))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """Two peers, a learned model with two seeds, an oracle."""
    out = tmp_path_factory.mktemp("out")
    for folder in ("rankings", "metrics"):
        (out / folder).mkdir()
    rng = np.random.default_rng(0)
    items = made_items(rng, 60)
    cases = made_cases(rng, items, users=40, cases=300)
    for label, skill in SKILL.items():
        frames = [rank(rng, items, cases, skill) for _ in range(2 if label == "ours" else 1)]
        write_model(out, label, frames, items)
    return out


@pytest.fixture
def out(evaluated, tmp_path):
    """A copy that a test may change."""
    for folder in ("rankings", "metrics"):
        (tmp_path / folder).mkdir()
        for path in (evaluated / folder).iterdir():
            (tmp_path / folder / path.name).write_bytes(path.read_bytes())
    return tmp_path


def build(out, **options):
    return compare.build("made", seed=0, resamples=200, out=out, **options)


def run(out, tmp_path, **options):
    paths = compare.write(build(out, **options), out, tmp_path / "results")
    return [path.read_text() for path in paths]


def change(out, name, **changes):
    path = out / "metrics" / f"{name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_result_file_has_the_agreed_shape(out, tmp_path):
    result = json.loads(run(out, tmp_path, registered="ours")[0])
    assert set(result) == {
        "dataset", "dataset_hash", "split_id", "commit", "date", "command", "seeds", "registered", "best_peer",
        "models", "comparisons", "oracle", "decay",
    }  # fmt: skip
    assert result["registered"] == "ours"
    assert result["seeds"] == [0, 1]
    assert set(result["models"]) == {"popularity", "ease", "ours"}
    ours = result["models"]["ours"]["targets"]
    assert set(ours) == {"window", "next"}
    assert ours["window"]["users"] == ours["window"]["cases"] == 40
    assert set(ours["next"]["metrics"]["ndcg@10"]) == {"mean", "low", "high"}
    assert set(ours["next"]["slices"]) == {"cold", "warm"}
    assert set(ours["next"]["metrics"]) == set(MAIN)


def test_the_registered_model_is_the_learned_one_that_is_best_on_validation_whatever_it_reaches_later(out):
    worst = {"learned": True, "peer": False}  # on the test window
    change(out, "popularity", **worst, validation={"next": {"ndcg@10": 0.9}})
    measured = read_metrics(out / "metrics", "made")

    assert best_on_validation(measured, learned=True) == "popularity"
    assert best_on_validation(measured, learned=False) == "ease"
    assert best_on_validation([], learned=True) is None


def test_neither_target_can_be_bought_with_the_other(out):
    change(
        out,
        "ease",
        learned=True,
        peer=False,
        validation={t: {"ndcg@10": v} for t, v in (("next", 0.31), ("window", 0.1))},
    )
    change(out, "ours", validation={t: {"ndcg@10": v} for t, v in (("next", 0.30), ("window", 0.2))})

    assert best_on_validation(read_metrics(out / "metrics", "made"), learned=True) == "ours"


def test_a_hybrid_is_compared_with_each_of_its_parts(out):
    change(out, "ours", params={"parts": {"popularity": {}, "ease": {}, "not_measured": {}}})

    found = {(one["model"], one["against"], one["target"]) for one in build(out).comparisons}

    assert {("ours", part, target) for part in ("popularity", "ease") for target in ("window", "next")} <= found
    assert not [pair for pair in found if pair[1] == "not_measured"]


def test_a_learned_peer_is_measured_against_but_never_registered(out):
    change(out, "ease", learned=True, validation={"next": {"ndcg@10": 0.9}})
    board = build(out)

    assert best_on_validation(board.models, learned=True) == "ours"
    assert best_on_validation(board.models, learned=False) == "popularity"
    assert board.best_peer["next"] == "ease"
    assert {(one["model"], one["against"]) for one in board.comparisons} == {("ours", "ease")}


def test_the_summary_has_every_model_with_both_targets_and_marks_peer_and_candidate(out, tmp_path):
    result = json.loads(run(out, tmp_path, registered="ours")[0])
    head, *lines, sizes = summary(result, "next").splitlines()

    assert head.split()[0] == "model"
    assert [line.split("  ")[0] for line in lines] == ["best reachable", "ours+", "ease*", "popularity"]
    mean = result["models"]["ours"]["targets"]["window"]["metrics"]["ndcg@10"]["mean"]
    assert f"{mean:.4f} [" in lines[1]
    assert lines[1].endswith("1.2")
    assert "window: 40 users, 40 cases" in sizes


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


def test_the_best_peer_is_a_peer_and_never_the_better_learned_model_or_oracle(out):
    board = build(out)
    assert board.best_peer == {"window": "ease", "next": "ease"}
    assert board.ranked("next")[0].label == "ours"
    assert best_peer([one for one in board.models if not one.peer], "next") is None


def test_every_learned_model_is_compared_with_the_best_peer_of_each_target(out):
    lines = build(out).comparisons
    assert [(line["target"], line["model"], line["against"]) for line in lines] == [
        ("window", "ours", "ease"), ("next", "ours", "ease"),
    ]  # fmt: skip
    for line in lines:
        assert line["low"] < line["difference"] < line["high"]
        assert line["low"] > 0
        assert set(line["slices"]) == {"cold", "warm"}


def test_a_difference_is_the_difference_of_the_published_means(out):
    board = build(out)
    points = {one.label: one.point("next", "ndcg@10") for one in board.models}
    line = board.comparisons[1]
    assert line["difference"] == pytest.approx(points["ours"] - points["ease"])
    assert line["relative"] == pytest.approx(points["ours"] / points["ease"] - 1)


def test_a_model_against_its_copy_differs_by_exactly_zero(out):
    lines = build(out, pairs=[("ease", "ease")]).comparisons
    copies = [line for line in lines if line["model"] == "ease"]
    assert len(copies) == 2
    for line in copies:
        assert (line["difference"], line["low"], line["high"], line["relative"]) == (0, 0, 0, 0)


@pytest.mark.parametrize("name", ["split_id", "dataset_hash"])
def test_numbers_of_another_split_or_data_are_refused(out, name):
    change(out, "ours", **{name: "other"})
    with pytest.raises(CompareError, match=f"measured on {name} .*; evaluate both on one split"):
        build(out)


def test_other_cases_are_refused_even_under_the_same_split_id(out):
    board = build(out)
    ours, ease = (next(one for one in board.models if one.label == label) for label in ("ours", "ease"))
    tables = {one.label: [pd.read_parquet(p) for p in one.ranking_files(out / "rankings")] for one in (ours, ease)}
    tables["ease"] = [frame[frame["case_id"] != "next-100"] for frame in tables["ease"]]
    fewer = ease.model_copy(update={"targets": measure(tables["ease"], made_items_of(tables), 0, 100)})
    with pytest.raises(CompareError, match="ours has 300 next cases, ease 299, 299 in common"):
        compare_pair(ours, fewer, lambda one: tables[one.label], "next", 0, 100)


def made_items_of(tables):
    """The items that these rankings name; what else is known of them does not matter here."""
    frames = [frame for each in tables.values() for frame in each]
    names = {item for frame in frames for column in ("ranked", "truth") for case in frame[column] for item in case}
    return pd.DataFrame({"item_id": sorted(names), "popularity": 1, "catalogue": True})


def test_rankings_of_another_run_than_the_metrics_are_refused(out):
    path = out / "rankings" / "ease-0.parquet"
    frame = pd.read_parquet(path)
    frame["true_ranks"] = [[2**31 - 1] * len(ranks) for ranks in frame["true_ranks"]]
    frame.to_parquet(path)
    with pytest.raises(CompareError, match=r"ease: its metrics file says window ndcg@10 = .*one of the two is old"):
        build(out)


def test_metrics_of_another_data_set_are_passed_over(out):
    change(out, "popularity", dataset="elsewhere", split_id="s2")
    assert [one.label for one in build(out).models] == ["ease", "ours"]


def test_a_pair_nobody_measured_is_refused(out):
    with pytest.raises(CompareError, match="no metrics of 'them'; known are ease, oracle, ours, popularity"):
        build(out, pairs=[("ours", "them")])


def test_a_broken_metrics_file_is_named_with_its_field(out):
    change(out, "ours", seeds="five")
    with pytest.raises(CompareError, match=r"ours\.json: seeds: .*; run evaluate again"):
        build(out)


def test_leaderboard_sorts_by_ndcg_and_marks_best_peer_registered_and_oracle(out, tmp_path):
    text = run(out, tmp_path, registered="ours")[1]
    tables = [part.splitlines() for part in text.split("## ")[1:3]]
    for table in tables:
        names = [line.split("|")[1].strip() for line in table if line.startswith("|")][2:]
        assert names == ["best reachable (oracle)", "ours (registered)", "ease (best peer)", "popularity"]
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
    change(out, "ours", targets=targets | {"next_frozen": {"metrics": {"ndcg@10": {"mean": 0.07654}}}})
    result, text, _ = run(out, tmp_path)
    assert json.loads(result)["models"]["ours"]["targets"]["next_frozen"]["metrics"]["ndcg@10"]["mean"] == 0.07654
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


def test_command_line_writes_the_files_and_says_where(out, tmp_path, capsys):
    arguments = ["--dataset", "made", "--out", str(out), "--results", str(tmp_path / "r")]
    assert compare.main(arguments) == 0
    said = capsys.readouterr().out
    assert said.startswith("compared 3 models of made: ")
    assert json.loads((tmp_path / "r" / "made.json").read_text())["registered"] == "ours"
    assert (tmp_path / "r" / "made.md").exists()
    assert (out / "leaderboard.html").exists()


def test_command_line_answers_a_mistake_in_one_line(out, capsys):
    assert compare.main(["--dataset", "unknown", "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "'unknown', only of ['made']" in said


def test_metrics_files_need_no_names_of_rankings():
    one = Measured.model_validate(ORIGIN | {"label": "ease", "model": "ease", "params": {}, "fit_seconds": None,
                                            "peer": True, "learned": False, "seeds": [0], "targets": {}})  # fmt: skip
    assert [path.name for path in one.ranking_files(compare.OUT)] == ["ease.parquet"]


def test_a_tuned_model_is_compared_with_its_default_values(out):
    facts = json.loads((out / "metrics" / "ours.json").read_text())
    asked = {"label": "ours_default", "params": {"rate": 1.0, "width": 3}}
    (out / "metrics" / "ours_default.json").write_text(json.dumps(facts | asked))

    assert ("ours", "ours_default") in {(line["model"], line["against"]) for line in build(out).comparisons}


def test_two_learned_models_that_differ_in_one_parameter_are_compared(out):
    facts = json.loads((out / "metrics" / "ours.json").read_text())
    asked = {"loss": "in_batch", "width": 8, "best_steps": 7}
    for label, changes in (("plain", {"loss": "uncorrected", "best_steps": 9}), ("wide", {"loss": "b", "width": 9})):
        other = facts | {"label": label, "params": asked | changes}
        (out / "metrics" / f"{label}.json").write_text(json.dumps(other))
    change(out, "ours", params=asked)

    pairs = {(line["model"], line["against"]) for line in build(out).comparisons}

    assert ("ours", "plain") in pairs
    assert not {("ours", "wide"), ("plain", "wide")} & pairs
