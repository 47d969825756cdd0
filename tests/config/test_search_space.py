"""What a tuner may try is checked against the model that has to take it."""

from __future__ import annotations

import pytest

from config.paths import ROOT
from config.search_space import spaces_around
from training.model_factory import load_settings

SETTINGS = load_settings(ROOT / "params.yaml")
SPACES = SETTINGS.tune.spaces["two_tower"]


def model(**changed):
    """The two-tower of params.yaml, with some values of its own."""
    own = SETTINGS.train.models["two_tower"]
    return type(own).model_validate(own.model_dump() | changed)


def test_every_value_of_every_space_is_one_that_the_model_takes() -> None:
    for label, spaces in SETTINGS.tune.spaces.items():
        own = SETTINGS.train.models[label]
        for name, space in spaces_around(spaces, own).items():
            for value in space.probes():
                assert getattr(type(own).model_validate(own.model_dump() | {name: value}), name) == value


def test_the_models_own_value_belongs_to_its_space() -> None:
    found = spaces_around(SPACES, model(embedding_dim=48, dropout=0.6, max_history=10, batch_size=2048))

    assert found["embedding_dim"].values == [32, 64, 128, 48]
    assert (found["dropout"].low, found["dropout"].high) == (0.0, 0.6)
    assert (found["max_history"].low, found["max_history"].high) == (10, 200)
    assert found["batch_size"] == SPACES["batch_size"]


def test_a_value_that_no_range_can_hold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^\.weight_decay: the model's own value is 0\.0; expected more than 0 where"):
        spaces_around(SPACES, model(weight_decay=0.0))
    with pytest.raises(ValueError, match=r"^\.days: the model's own value is None, which no range holds"):
        spaces_around({"days": SPACES["num_layers"]}, SETTINGS.train.models["popularity"])
