"""Several seeds of one configuration are read as one model, and the one with the median score is kept."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from made_board import ORIGIN
from made_rankings import made_cases, made_items, rank

from config import params
from config.paths import EXPERIMENTS, ROOT
from experiments.evaluation.measure import measure
from experiments.orchestration import seeds
from experiments.orchestration.workspace import edited

RNG = np.random.default_rng(0)
ITEMS = made_items(RNG, 60)
CASES = made_cases(RNG, ITEMS, users=40, cases=200)
TABLES = {seed: rank(RNG, ITEMS, CASES, skill=3.0) for seed in range(3)}
VALIDATION = {0: 0.2, 1: 0.4, 2: 0.3}  # of the learned model, by seed


@cache
def measured(seed: int) -> dict:
    return measure(TABLES[seed], ITEMS, seed=0, resamples=200)


def facts_of(label: str, learned: bool, seed: int) -> dict:
    """What evaluate writes of one model under one seed."""
    targets = measured(seed)
    frozen = {"users": 1, "cases": 2, "metrics": {"ndcg@10": {"mean": 0.1 * seed, "low": 0.0, "high": 1.0}}}
    return ORIGIN | {
        "label": label, "model": "two_tower", "params": {"embedding_dim": 8}, "fit_seconds": 1.0 + seed, "baseline": not learned,
        "learned": learned, "seeds": [seed], "targets": targets | ({"next_item_frozen": frozen} if learned else {}),
        "validation": {"next_item": {"ndcg@10": VALIDATION[seed]}, "horizon": {"ndcg@10": VALIDATION[seed]}},
    }  # fmt: skip


def evaluate(folder: Path, seed: int) -> None:
    """What the stages leave behind under a seed."""
    for name in ("metrics", "rankings"):
        (folder / EXPERIMENTS / name).mkdir(parents=True, exist_ok=True)
    for label, learned in (("ours", True), ("counted", False)):
        facts = facts_of(label, learned, seed if learned else 0)
        (folder / EXPERIMENTS / "metrics" / f"{label}.json").write_text(json.dumps(facts), encoding="utf-8")
        TABLES[seed if learned else 0].to_parquet(folder / EXPERIMENTS / "rankings" / f"{label}.parquet")
    ITEMS.to_parquet(folder / EXPERIMENTS / "rankings/items.parquet")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace whose pipeline gives what TABLES and VALIDATION say of the seed that params.yaml names."""
    settings = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    settings["dataset"] = "made"
    models = settings["train"]["models"]
    settings["train"]["models"] = models | {"ours": models["two_tower"], "counted": models["ease"]}
    settings["evaluate"]["resamples"] = 200
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    shutil.copyfile(ROOT / "dvc.yaml", tmp_path / "dvc.yaml")

    def repro(title: str, module: str, arguments: list[str], folder: Path, env: dict) -> None:
        evaluate(folder, params.load(folder / "params.yaml").train.seed)

    monkeypatch.setattr(seeds.steps, "step", repro)
    evaluate(tmp_path, 0)
    return tmp_path


def test_a_model_that_params_no_longer_name_is_not_fitted_again(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with edited(workspace / "params.yaml") as settings:
        settings["train"]["models"] = {"counted": settings["train"]["models"]["ease"]}
        settings["tune"]["spaces"] = {}
    asked: list[list[str]] = []
    monkeypatch.setattr(seeds.steps, "step", lambda title, module, arguments, *_: asked.append(arguments))

    assert seeds.fit_and_measure(workspace, 3, {}) is None

    assert asked == [], "`dvc repro` without a target would fit them all"


def together(folder: Path, label: str) -> dict:
    return json.loads((folder / seeds.TOGETHER / "metrics" / f"{label}.json").read_text(encoding="utf-8"))


def test_under_each_seed_only_networks_and_their_parts_are_fitted_and_in_the_end_every_model(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, run = (workspace / "dvc.yaml").read_text(encoding="utf-8"), []

    def step(title: str, module: str, arguments: list[str], folder: Path, env: dict) -> None:
        ranked = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["vars"][-1]["ranked"]["model"]
        run.append((params.load(folder / "params.yaml").train.seed, ranked))
        evaluate(folder, params.load(folder / "params.yaml").train.seed)

    monkeypatch.setattr(seeds.steps, "step", step)
    seeds.fit_and_measure(workspace, 3, {})

    assert run[:3] == [(seed, ["ours"]) for seed in range(3)]
    assert (workspace / "dvc.yaml").read_text(encoding="utf-8") == before


def test_each_case_is_averaged_over_the_seeds(workspace: Path) -> None:
    seeds.fit_and_measure(workspace, 3, {})

    found = together(workspace, "ours")
    alone = [facts_of("ours", True, seed)["targets"]["next_item"]["metrics"]["ndcg@10"]["mean"] for seed in range(3)]
    assert found["targets"]["next_item"]["metrics"]["ndcg@10"]["mean"] == pytest.approx(sum(alone) / 3)
    assert found["seeds"] == [0, 1, 2]
    assert found["fit_seconds"] == 2
    assert found["validation"]["next_item"]["ndcg@10"] == pytest.approx(0.3)
    assert found["targets"]["next_item_frozen"]["metrics"]["ndcg@10"] == {"mean": pytest.approx(0.1), "low": None, "high": None}  # fmt: skip
    kept = pd.read_parquet(workspace / seeds.TOGETHER / "rankings" / found["rankings"][2])
    pd.testing.assert_series_equal(kept["case_id"], TABLES[2]["case_id"])


def test_what_is_only_counted_is_as_it_was(workspace: Path) -> None:
    before = json.loads((workspace / EXPERIMENTS / "metrics/counted.json").read_text(encoding="utf-8"))

    seeds.fit_and_measure(workspace, 3, {})

    assert together(workspace, "counted") == before


def test_the_workspace_is_left_with_the_seed_in_the_middle(workspace: Path) -> None:
    assert seeds.fit_and_measure(workspace, 3, {}) == "ours"

    assert params.load(workspace / "params.yaml").train.seed == 2  # validation 0.3, between 0.2 and 0.4
    assert json.loads((workspace / EXPERIMENTS / "metrics/ours.json").read_text(encoding="utf-8"))["seeds"] == [2]


def test_of_two_seeds_the_lower_one_is_the_middle(workspace: Path) -> None:
    seeds.fit_and_measure(workspace, 2, {})

    assert params.load(workspace / "params.yaml").train.seed == 0


def test_an_earlier_call_with_more_seeds_does_not_add_to_this_one(workspace: Path) -> None:
    seeds.fit_and_measure(workspace, 3, {})
    seeds.fit_and_measure(workspace, 2, {})

    assert together(workspace, "ours")["seeds"] == [0, 1]
    assert not (workspace / seeds.TOGETHER / "rankings/ours.2.parquet").exists()
