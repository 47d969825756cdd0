"""Models are found by their files, and hyperparameters are checked by the network's class."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from config import params
from config.paths import ROOT
from training.model_factory import load_settings, with_typed_models
from training.models.base import Hyperparameters, ModelError, build, models, parse

FOLDER = Path(ROOT / "training/models")
EASE = {"name": "ease", "l2": [200, 1000], "max_items": 100}


def test_every_file_that_registers_a_model_is_found() -> None:
    files = {path.stem for path in FOLDER.glob("*.py") if "\n@register\n" in path.read_text(encoding="utf-8")}

    assert {model.__module__.rpartition(".")[2] for model in models().values()} == files


def test_every_model_has_hyperparameters_that_name_it() -> None:
    for name, model in models().items():
        assert issubclass(model.hyperparameters_type, Hyperparameters)
        with pytest.raises(ValidationError):
            model.hyperparameters_type.model_validate({"name": f"not {name}"})


def test_what_a_fit_has_stored_is_parsed_like_the_section_it_came_from() -> None:
    assert parse(EASE | {"l2": 200}).model_dump() == EASE | {"l2": [200.0]}
    assert parse(EASE | {"best_steps": 7, "train_events": 9}) == parse(EASE)


def test_an_unknown_model_is_named_with_the_known_ones() -> None:
    with pytest.raises(ModelError, match="no model is called 'gru'; there are ease, hybrid, ials"):
        build({"name": "gru"}, None)  # type: ignore[arg-type]


def test_settings_hold_the_models_typed_hyperparameters() -> None:
    assert load_settings(ROOT / "params.yaml").train.models["ease"].l2 == [200.0, 1000.0]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("label", "section", "fault"),
    [
        (
            "ease",
            EASE | {"max_items": 0},
            "train.models.ease.max_items is 0; input should be greater than or equal to 1",
        ),
        ("gru", {"name": "gru"}, "train.models.gru: no model is called 'gru'; there are ease, hybrid"),
        (
            "hybrid",
            {"name": "hybrid", "parts": ["ease", "none"], "retrieve": None, "l2": [1]},
            "train: models.hybrid.parts names none, which is no other model that is not a hybrid",
        ),
        (
            "hybrid",
            {"name": "hybrid", "parts": ["ease"], "retrieve": None, "l2": [1]},
            "train.models.hybrid.parts: ['ease'] is not a list of at least two labels of train.models",
        ),
    ],
)
def test_a_faulty_model_is_named_by_its_key(label: str, section: dict, fault: str) -> None:
    settings = params.load(ROOT / "params.yaml")
    changed = settings.train.models | {label: type(settings.train.models["ease"]).model_validate(section)}
    train = settings.train.model_copy(update={"models": changed})

    with pytest.raises(params.ParamsError) as error:
        with_typed_models(settings.model_copy(update={"train": train}), Path("params.yaml"))
    assert str(error.value).startswith(f"params.yaml: {fault}")
