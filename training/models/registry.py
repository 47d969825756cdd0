"""Find a model by its name. Each file of this folder registers the models that it defines."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from config.validation import ModelSection
from training.models.base import Hyperparameters, Model, ModelError, Sizes

FOUND_BY_FIT = ("best_steps", "train_events", "weights")  # keys that a fit adds to the hyperparameters it was given

_REGISTERED: dict[str, type[Model]] = {}
ModelT = TypeVar("ModelT", bound=type[Model])


def register(model: ModelT) -> ModelT:
    """Make a model class known under its `name`; used as a decorator."""
    _REGISTERED[model.name] = model
    return model


@cache
def models() -> Mapping[str, type[Model]]:
    """All model classes by name. Imports every module of this folder, so that a new file needs no entry here."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"{__package__}.{module.name}")
    return dict(sorted(_REGISTERED.items()))


def model_class(name: object) -> type[Model]:
    """The class of a name.

    Raises:
        ModelError: an unknown name; the text lists the known ones.
    """
    if not isinstance(name, str) or name not in models():
        raise ModelError(f"no model is called {name!r}; there are {', '.join(models())}")
    return models()[name]


def parse(section: ModelSection | Mapping[str, Any]) -> Hyperparameters:
    """Typed hyperparameters of an entry of params.yaml, or of what a fit has stored.

    Raises:
        ModelError: an unknown name.
        pydantic.ValidationError: an unknown, missing or unacceptable hyperparameter.
    """
    if isinstance(section, Hyperparameters):
        return section
    values = section.model_dump() if isinstance(section, ModelSection) else section
    chosen = {name: value for name, value in values.items() if name not in FOUND_BY_FIT}
    return model_class(values.get("name")).hyperparameters_type.model_validate(chosen)


def build(hyperparameters: ModelSection | Mapping[str, Any], sizes: Sizes) -> Model:
    """The untrained model of these hyperparameters.

    Raises:
        ModelError: an unknown name, or the model refuses its hyperparameters or the catalog.
    """
    typed = parse(hyperparameters)
    return model_class(typed.name)(typed, sizes)
