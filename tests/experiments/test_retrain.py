"""Retraining: cuts are stated, old events never judge, the champion's own recipe is what is fitted anew."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest
import yaml
from pydantic import TypeAdapter

from config import params
from config.command import UserError
from config.model_params import ModelParams
from data.columns import DAY
from data.times import from_iso, to_iso
from experiments import retrain
from experiments.gating import same_data_refit
from experiments.orchestration import workspace
from experiments.retrain import Champion, old_end_of, prepare
from experiments.retraining.cuts import RetrainCuts, retrain_cuts

END = from_iso("2026-03-01T12:00:00Z")
SHIPPED = params.load().train.models


def test_only_what_is_new_judges_and_as_long_before_it_validates() -> None:
    cuts = retrain_cuts(END, END + 10 * DAY, None, None)

    assert cuts == RetrainCuts(END + 1 - 10 * DAY, END + 1, END + 10 * DAY)
    assert cuts.test_start - cuts.valid_start == cuts.end + 1 - cuts.test_start


@pytest.mark.parametrize(
    ("end", "valid", "test", "fault"),
    [
        (END, None, None, "SOURCE holds no event after 2026-03-01T12:00:00Z"),
        (END + DAY, None, "2026-03-01T12:00:00Z", "--test-start .* have judged or taught already"),
        (END + DAY, None, "2026-03-05", "--test-start is 2026-03-05; the last event is of 2026-03-02T12:00:00Z"),
        (END + DAY, "2026-03-02", "2026-03-02", "--valid-start is 2026-03-02; expected a moment before"),
        (END + DAY, "soon", None, "--valid-start is 'soon'; expected an ISO 8601 time"),
    ],
)
def test_a_cut_that_could_not_judge_is_refused(end: int, valid: str | None, test: str | None, fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        retrain_cuts(END, end, valid, test)


def fitted(label: str) -> dict:
    """A recipe as a fit leaves it: with what was chosen and learned, a hybrid's parts as recipes of their own."""
    made = SHIPPED[label].model_dump() | {"best_steps": 120, "train_events": 9000}
    if "l2" in made:
        made["l2"] = made["l2"][0]
    if "parts" in made:
        made |= {"parts": {part: fitted(part) for part in made["parts"]}, "weights": [[0.5, 0, 0, 0]]}
    return made


@pytest.mark.parametrize("label", sorted(SHIPPED))
def test_a_fitted_recipe_is_stated_as_params_would_state_it(label: str) -> None:
    sections = same_data_refit.stated(label, fitted(label))

    for name, section in sections.items():
        expected = SHIPPED[name].model_dump()
        if "l2" in expected:
            expected["l2"] = expected["l2"][:1]
        assert TypeAdapter(ModelParams).validate_python(section).model_dump() == expected


def test_a_recipe_of_another_age_is_refused_by_what_it_lacks() -> None:
    with pytest.raises(UserError, match="the recipe of ease lacks max_items"):
        same_data_refit.stated("ease", {"name": "ease", "l2": 200})
    with pytest.raises(UserError, match="ours is a 'gru', which this code cannot fit"):
        same_data_refit.stated("ours", {"name": "gru"})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(workspace, "HOME", tmp_path / "workspaces")
    return workspace.make_simulated()


CHAMPION = Champion("4", "two_tower", fitted("two_tower") | {"embedding_dim": 48, "num_heads": 4}, END - 30 * DAY)


def test_the_champions_recipe_and_its_rival_are_fitted_at_the_stated_cuts(folder: Path) -> None:
    labels = prepare(folder, CHAMPION, RetrainCuts(END - DAY, END, END + DAY), ["hybrid"])
    settings = params.load(folder / "params.yaml")
    pipeline = yaml.safe_load((folder / "dvc.yaml").read_text())

    assert settings.train.models["two_tower"].embedding_dim == 48, "what serves, not what params.yaml says by now"
    written = yaml.safe_load((folder / "params.yaml").read_text())["split"]
    assert isinstance(written["test_start"], str), "DVC cannot compare a YAML date"
    assert settings.split.test_start == datetime.fromisoformat(to_iso(END))
    assert settings.split.valid_start == datetime.fromisoformat(to_iso(END - DAY))
    assert {"two_tower", "hybrid", *SHIPPED["hybrid"].parts, "popularity_7d"} <= set(labels)
    assert "sasrec" not in labels
    assert {"hybrids": ["hybrid"]} in pipeline["vars"]


def test_an_unknown_rival_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="--candidates gru: train"):
        prepare(folder, CHAMPION, RetrainCuts(END - DAY, END, END + DAY), ["gru"])


def test_a_call_that_was_cut_short_goes_on_from_where_the_version_before_ended(folder: Path) -> None:
    assert old_end_of(folder, CHAMPION) == CHAMPION.fit_until_us - 1, "no version lies here: what it was fitted on"

    split = folder / retrain.SPLIT / "manifest.json"
    split.parent.mkdir(parents=True)
    split.write_text(json.dumps({"end_us": END}))
    assert old_end_of(folder, CHAMPION) == END

    (folder / retrain.NOTE).parent.mkdir(parents=True, exist_ok=True)
    (folder / retrain.NOTE).write_text(json.dumps({"old_end_us": END, "end_us": END + DAY}))
    split.write_text(json.dumps({"end_us": END + DAY}))  # by the call that was cut short
    assert old_end_of(folder, CHAMPION) == END

    split.write_text(json.dumps({"end_us": END + 9 * DAY}))  # by a later one
    assert old_end_of(folder, CHAMPION) == END + 9 * DAY


def test_a_newer_file_of_the_same_data_set_keeps_its_name(folder: Path, tmp_path: Path) -> None:
    made = []
    for name in ("march.csv", "april.csv"):
        (tmp_path / name).write_text("user_id,item_id,event_time\na,b,2026-01-01\n")
        made.append(workspace.make(tmp_path / name, None, None, {}, "shop", renewed=True))

    assert made[0] == made[1] == workspace.HOME / "shop"
    assert yaml.safe_load((made[1] / "params.yaml").read_text())["ingest"]["path"].endswith("april.csv")


def test_what_was_measured_of_other_models_on_the_split_before_is_gone(folder: Path) -> None:
    for name, suffix in (("metrics", "json"), ("rankings", "parquet")):
        (folder / retrain.MEASURED / name).mkdir(parents=True)
        for label in ("ease", "item_knn"):
            (folder / retrain.MEASURED / name / f"{label}.{suffix}").touch()
    (folder / retrain.MEASURED / "rankings/items.parquet").touch()

    retrain.forget_others(folder, ["ease", "two_tower"])

    left = sorted(path.name for path in (folder / retrain.MEASURED).rglob("*.*"))
    assert left == ["ease.json", "ease.parquet", "items.parquet"]


def test_without_a_source_it_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert retrain.main([]) == 2
    assert "SOURCE is missing" in capsys.readouterr().err
