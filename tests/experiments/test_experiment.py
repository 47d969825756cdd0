"""An experiment splits its minutes, takes only what is better, and goes on where it was interrupted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from config import params
from config.command import UserError
from config.paths import ROOT
from experiments import experiment
from experiments.experiment import choices_text, is_better, started_at, take_better
from experiments.orchestration import workspace
from experiments.orchestration.workspace import prepare

MODELS = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["train"]["models"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace of the simulator, as an experiment without a source makes it."""
    monkeypatch.setattr(workspace, "HOME", tmp_path / "workspaces")
    made = workspace.make_simulated()
    prepare(made)
    return made


def found(objective: float, defaults: float | None, **changed) -> dict:
    """What tuning writes of a two-tower."""
    return {
        "objective": objective, "defaults": defaults, "parameters": changed, "hyperparameters": MODELS["two_tower"] | changed,
        "trials": 7,
    }  # fmt: skip


@pytest.fixture
def asked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The arguments of each call of tune, whose trials take no time; studies have had what `had` says."""
    calls: list[list[str]] = []
    monkeypatch.setattr(experiment.steps, "step", lambda title, module, arguments, *_: calls.append(arguments))
    return calls


def minutes_by_label(calls: list[list[str]]) -> dict[str, float]:
    return {one[1]: round(float(one[one.index("--minutes") + 1]), 2) for one in calls}


def test_models_that_are_not_learned_are_tuned_first_and_leave_their_minutes_to_the_networks(
    folder: Path, asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = {"item_knn": (30.0, 40), "ials": (90.0, 40)}
    ended: list[str] = []
    monkeypatch.setattr(experiment, "time_spent", lambda start, label, *_: quick.get(label, (0.0, 0))
                        if label in ended or ended.append(label) else (0.0, 0))  # fmt: skip

    experiment.tune_all(folder, params.load(folder / "params.yaml"), 50, 1, {})

    assert list(minutes_by_label(asked)) == ["item_knn", "ials", "sasrec", "two_tower", "neural_cf"]
    # 50 minutes less 0.5 for item_knn leave 49.5 for four, less 1.5 for ials leave 48 for three.
    assert list(minutes_by_label(asked).values()) == [10, 12.38, 16, 16, 16]
    assert [("--trials" in one) for one in asked] == [True, True, False, False, False]


def test_a_workspace_runs_every_model_of_params_and_its_trials_are_as_long_as_its_fits(folder: Path) -> None:
    pipeline = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))
    settings = params.load(folder / "params.yaml")

    hybrids = ["hybrid", "ensemble", "reranker"]
    networks = ["sasrec", "two_tower", "neural_cf"]
    baselines = [label for label in MODELS if label not in (*networks, *hybrids)]
    assert pipeline["vars"][1:] == [
        {"baselines": {"model": baselines}},
        {"networks": networks},
        {"hybrids": hybrids},
        {"ranked": {"model": [*baselines, *networks, *hybrids]}},
    ]
    assert pipeline["stages"]["train-baselines"]["outs"] == [f"out/training/{label}" for label in baselines]
    assert settings.tune.max_steps is None
    assert settings.train.models["two_tower"].max_steps == settings.experiment.max_steps
    assert settings.train.models["sasrec"].max_steps == MODELS["sasrec"]["max_steps"], "it went further already"
    assert settings.dataset == folder.name == "simulated"
    assert "--oracle" in pipeline["stages"]["evaluate"]["cmd"], "the simulator's true preferences are known here too"


def test_models_that_cannot_hold_the_catalog_are_left_out_and_named(folder: Path) -> None:
    features = folder / "out/features/test"
    features.mkdir(parents=True)
    (features / "description.json").write_text(json.dumps({"num_items": 30_000}), encoding="utf-8")

    reasons = workspace.leave_out_large_models(folder)

    assert "ease is left out: 30,000 items exceed its max_items = 20,000" in reasons
    assert params.load(folder / "params.yaml").train.models["hybrid"].parts == ["two_tower", "neural_cf"]
    pipeline = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))
    run = {name: labels for one in pipeline["vars"] for name, labels in one.items()}
    assert not {"ease", "item_knn"} & set(run["ranked"]["model"])
    assert "hybrid" in run["ranked"]["model"]
    assert "out/training/ease" not in pipeline["stages"]["train-hybrid"]["deps"]


def test_a_hybrid_with_one_part_left_is_left_out(folder: Path) -> None:
    with workspace.edited(folder / "params.yaml") as settings:
        settings["train"]["models"]["hybrid"]["parts"] = ["two_tower", "ease"]
        for label in ("reranker", "ensemble"):
            settings["train"]["models"][label]["parts"] = ["item_knn", "ease"]
    features = folder / "out/features/test"
    features.mkdir(parents=True)
    (features / "description.json").write_text(json.dumps({"num_items": 30_000}), encoding="utf-8")

    workspace.leave_out_large_models(folder)

    assert "hybrid" not in params.load(folder / "params.yaml").train.models
    assert not [
        name for name in yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))["stages"] if "hybrid" in name
    ]


def test_only_values_that_beat_the_default_are_better() -> None:
    assert is_better(found(0.3, 0.2))
    assert is_better(found(0.3, None)), "the default values fail"
    assert not is_better(found(0.2, 0.2))


def test_a_preset_sets_the_hyperparameters_of_its_models(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "PRESETS", folder / "presets")
    tuned = {"two_tower": MODELS["two_tower"] | {"embedding_dim": 128}}
    workspace.write_preset(folder / "presets/mine.yaml", "simulated", "split", "make experiment", tuned)

    prepare(folder, ["mine"])

    taken = params.load(folder / "params.yaml").train.models
    assert taken["two_tower"].embedding_dim == 128
    assert taken["neural_cf"].embedding_dim == MODELS["neural_cf"]["embedding_dim"]


def test_default_values_can_be_fitted_too(folder: Path) -> None:
    before = params.load(folder / "params.yaml").train.models["two_tower"]
    tuned = {"two_tower": found(0.3, 0.2, embedding_dim=128), "sasrec": found(0.2, 0.3)}

    take_better(folder, tuned, defaults=True)

    models = params.load(folder / "params.yaml").train.models
    assert models["two_tower"].embedding_dim == 128
    assert models["two_tower_default"] == before
    assert "sasrec_default" not in models, "nothing beat its values"
    pipeline = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))
    assert "two_tower_default" in pipeline["vars"][-1]["ranked"]["model"]


def test_by_default_only_the_tuned_values_are_fitted(folder: Path) -> None:
    take_better(folder, {"two_tower": found(0.3, 0.2, embedding_dim=128)}, defaults=False)

    models = params.load(folder / "params.yaml").train.models
    assert models["two_tower"].embedding_dim == 128
    assert "two_tower_default" not in models


def test_an_unknown_preset_is_refused_with_those_there_are(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "PRESETS", folder / "presets")
    workspace.write_preset(folder / "presets/mine.yaml", "simulated", "split", "make experiment", {})

    with pytest.raises(UserError, match="PRESET is 'yours'; experiments/presets holds mine"):
        workspace.read_preset("yours")


def test_a_dataset_has_the_presets_that_were_found_on_it() -> None:
    assert workspace.presets_of("ml-100k") == ["ml-100k", "ml-100k-baselines"]
    assert workspace.presets_of("nothing") == []


@pytest.mark.parametrize("path", sorted(workspace.PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_preset_can_be_fitted(folder: Path, path: Path) -> None:
    prepare(folder, [path.stem])

    assert params.load(folder / "params.yaml")
    assert set(yaml.safe_load(path.read_text(encoding="utf-8"))["found"]) == {
        "dataset",
        "split_id",
        "command",
        "commit",
        "date",
    }


def test_chosen_values_are_printed_with_their_gain() -> None:
    lines = choices_text({
        "two_tower": found(0.3, 0.2, embedding_dim=128, dropout=0.123456),
        "neural_cf": found(0.2, 0.2, embedding_dim=128),
        "other": found(0.2, None, embedding_dim=32),
    }).splitlines()  # fmt: skip

    assert lines == [
        "  two_tower    0.3000, +50.0% on the default values' 0.2000 after 7 trials: embedding_dim 128, dropout 0.123",
        "  neural_cf    0.2000 by the default values, which nothing beat after 7 trials",
        "  other        0.2000 after 7 trials; the default values fail: embedding_dim 32",
    ]


def test_an_interrupted_experiment_keeps_its_start(tmp_path: Path) -> None:
    first = started_at(tmp_path, 30)

    assert started_at(tmp_path, 30) == first
    assert started_at(tmp_path, 60) > first, "other minutes are another experiment"
    assert json.loads((tmp_path / experiment.NOTE).read_text(encoding="utf-8"))["minutes"] == 60


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--minutes", "soon"], "MINUTES is 'soon'; expected a number of minutes above 0"),
        (["--minutes", "-5"], "MINUTES is '-5'; expected a number of minutes above 0"),
        (["--minutes", "inf"], "MINUTES is 'inf'; expected a number of minutes above 0"),
        (["--workers", "0"], "WORKERS is 0; expected at least 1"),
        (["--seeds", "0"], "SEEDS is 0; expected at least 1"),
        (["--name", "x"], "USERS, ITEMS, COLUMNS, NAME and NO_CONSENT describe a SOURCE, which is missing"),
        (["--source", "gone.csv"], "SOURCE: gone.csv does not exist"),
    ],
)
def test_a_wrong_argument_is_one_line(capsys: pytest.CaptureFixture, arguments: list[str], says: str) -> None:
    assert experiment.main(arguments) == 2
    assert capsys.readouterr().err == f"error: {says}\n"
