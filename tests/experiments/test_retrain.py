"""Retraining: cuts are explicit, old events never judge, and the champion's own configuration is fitted again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest
import yaml

from config import params
from config.command import UserError
from config.paths import EXPERIMENTS, SPLIT
from data import ingest
from data.columns import DAY
from data.times import from_iso, to_iso
from experiments import retrain
from experiments.orchestration import workspace
from experiments.retrain import NOTE, RetrainCuts, choose_cuts, params_sections, prepare_workspace, previous_end
from training.model_factory import load_settings
from training.models.base import parse

END = from_iso("2026-03-01T12:00:00Z")
SHIPPED = load_settings().train.models


def test_only_new_events_judge_and_validation_is_as_long() -> None:
    cuts = choose_cuts(END, END + 10 * DAY)

    assert cuts == RetrainCuts(END + 1 - 10 * DAY, END + 1, END + 10 * DAY)
    assert cuts.test_start - cuts.valid_start == cuts.end + 1 - cuts.test_start


def test_without_new_events_nothing_is_retrained() -> None:
    with pytest.raises(UserError, match="SOURCE holds no event after 2026-03-01T12:00:00Z"):
        choose_cuts(END, END)


def fitted(label: str) -> dict:
    """A configuration after its fit: with the values chosen and found, and a hybrid's parts as configurations."""
    made = SHIPPED[label].model_dump() | {"best_steps": 120, "train_events": 9000}
    if "l2" in made:
        made["l2"] = made["l2"][0]
    if "parts" in made:
        made |= {"parts": {part: fitted(part) for part in made["parts"]}, "weights": [[0.5, 0, 0, 0]]}
    return made


@pytest.mark.parametrize("label", sorted(SHIPPED))
def test_a_fitted_configuration_becomes_the_section_of_params_again(label: str) -> None:
    sections = params_sections(label, fitted(label))

    for name, section in sections.items():
        expected = SHIPPED[name].model_dump()
        if "l2" in expected:
            expected["l2"] = expected["l2"][:1]
        assert parse(section).model_dump() == expected


def test_a_configuration_of_an_unknown_model_is_refused() -> None:
    with pytest.raises(UserError, match="ours is a 'gru', which this code cannot fit"):
        params_sections("ours", {"name": "gru"})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(workspace, "HOME", tmp_path / "workspaces")
    return workspace.make_simulated()


CHAMPION = {"label": "two_tower", "params": fitted("two_tower") | {"embedding_dim": 48, "num_heads": 4}}


def test_the_champions_configuration_and_its_rival_are_fitted_at_the_chosen_cuts(folder: Path) -> None:
    labels = prepare_workspace(folder, CHAMPION, RetrainCuts(END - DAY, END, END + DAY), ["hybrid"])
    settings = params.load(folder / "params.yaml")
    pipeline = yaml.safe_load((folder / "dvc.yaml").read_text(encoding="utf-8"))

    assert settings.train.models["two_tower"].embedding_dim == 48, "what serves, not the newer params.yaml"
    written = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))["split"]
    assert isinstance(written["test_start"], str), "DVC cannot compare a YAML date"
    assert settings.split.test_start == datetime.fromisoformat(to_iso(END))
    assert settings.split.valid_start == datetime.fromisoformat(to_iso(END - DAY))
    assert {"two_tower", "hybrid", *SHIPPED["hybrid"].parts, "popularity_7d"} <= set(labels)
    assert "sasrec" not in labels
    assert {"hybrids": ["hybrid"]} in pipeline["vars"]


def test_an_unknown_rival_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="--candidates gru: train"):
        prepare_workspace(folder, CHAMPION, RetrainCuts(END - DAY, END, END + DAY), ["gru"])


def test_an_interrupted_run_continues_from_the_end_of_the_previous_version(folder: Path) -> None:
    assert previous_end(folder, END - DAY) == END - DAY - 1, "no version lies here: what it was fitted on"

    split = folder / SPLIT / "manifest.json"
    split.parent.mkdir(parents=True)
    split.write_text(json.dumps({"end_us": END}), encoding="utf-8")
    assert previous_end(folder, END - DAY) == END

    (folder / NOTE).parent.mkdir(parents=True, exist_ok=True)
    (folder / NOTE).write_text(json.dumps({"old_end_us": END, "end_us": END + DAY}), encoding="utf-8")
    split.write_text(json.dumps({"end_us": END + DAY}), encoding="utf-8")  # by the call that was cut short
    assert previous_end(folder, END - DAY) == END

    split.write_text(json.dumps({"end_us": END + 9 * DAY}), encoding="utf-8")  # by a later one
    assert previous_end(folder, END - DAY) == END + 9 * DAY


def test_a_newer_file_of_the_same_dataset_keeps_its_name(folder: Path, tmp_path: Path) -> None:
    made = []
    for name in ("march.csv", "april.csv"):
        (tmp_path / name).write_text("user_id,item_id,event_time\na,b,2026-01-01\n", encoding="utf-8")
        made.append(workspace.make(tmp_path / name, None, None, {}, "shop", renewed=True))

    assert made[0] == made[1] == workspace.HOME / "shop"
    assert yaml.safe_load((made[1] / "params.yaml").read_text(encoding="utf-8"))["ingest"]["path"].endswith("april.csv")


@pytest.fixture
def ingest_shop(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., set[str] | int]:
    """Renew the workspace of `shop` and ingest; the users whose events are kept, or the exit code of an error."""
    (tmp_path / "users.csv").write_text("user_id;optin\nyes;true\nno;false\n", encoding="utf-8")
    (tmp_path / "events.csv").write_text(
        "user_id;item_id;event_time\n" + "".join(f"{user};i{day};2026-01-{day:02}\n" for user in ("yes", "no")
                                                for day in range(1, 9)), encoding="utf-8")  # fmt: skip
    monkeypatch.chdir(tmp_path)

    def run(users: str | None = None, columns: dict[str, str] | None = None, **given: object) -> set[str] | int:
        shop = workspace.make(Path("events.csv"), users and Path(users), None, columns or {}, "shop", True, **given)
        if code := ingest.main(["--params", str(shop / "params.yaml"), "--out", str(tmp_path / "ingested")]):
            return code
        return set(pd.read_parquet(tmp_path / "ingested/events.parquet")["user_id"])

    return run


def test_who_refused_stays_out_when_the_table_of_users_is_not_given_again(ingest_shop) -> None:
    assert ingest_shop("users.csv", {"consent_training": "optin"}, formats={"delimiter": ";"}) == {"yes"}
    assert ingest_shop() == {"yes"}
    assert params.load(workspace.HOME / "shop/params.yaml").ingest.formats.users.delimiter == ";"


def test_a_source_that_no_longer_says_who_refused_is_ingested_only_if_told_so(
    ingest_shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ingest_shop() == {"yes", "no"}, "nobody was asked"
    assert ingest_shop("users.csv", {"consent_training": "optin"}) == {"yes"}
    (tmp_path / "users.csv").write_text("user_id;renamed\nyes;true\nno;false\n", encoding="utf-8")
    for _ in range(2):
        assert ingest_shop(columns={"user_id": "user_id"}) == 2
        assert "users have no column consent_training" in capsys.readouterr().err
    assert params.load(workspace.HOME / "shop/params.yaml").ingest.require_consent, (
        "for DVC, other settings than before"
    )
    shutil.rmtree(workspace.HOME)
    assert ingest_shop() == 2
    assert "or add NO_CONSENT=1" in capsys.readouterr().err

    assert ingest_shop(no_consent=True) == {"yes", "no"}
    assert ingest_shop() == 2, "it holds for one run"


def test_measurements_of_other_models_on_the_previous_split_are_removed(folder: Path) -> None:
    for name, suffix in (("metrics", "json"), ("rankings", "parquet")):
        (folder / EXPERIMENTS / name).mkdir(parents=True)
        for label in ("ease", "item_knn"):
            (folder / EXPERIMENTS / name / f"{label}.{suffix}").touch()
    (folder / EXPERIMENTS / "rankings/items.parquet").touch()

    retrain.remove_other_measurements(folder, ["ease", "two_tower"])

    left = sorted(path.name for path in (folder / EXPERIMENTS).rglob("*.*"))
    assert left == ["ease.json", "ease.parquet", "items.parquet"]


def test_a_missing_source_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert retrain.main([]) == 2
    assert "SOURCE is missing" in capsys.readouterr().err
