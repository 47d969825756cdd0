"""Find a model by its name. Each file of this folder registers the models that it defines."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

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


def parse(section: Mapping[str, Any]) -> Hyperparameters:
    """Typed hyperparameters of a plain dict: an entry of params.yaml, or what a fit has stored.

    Raises:
        ModelError: an unknown name.
        pydantic.ValidationError: an unknown, missing or unacceptable hyperparameter.
    """
    chosen = {name: value for name, value in section.items() if name not in FOUND_BY_FIT}
    return model_class(section.get("name")).hyperparameters_type.model_validate(chosen)


def build(hyperparameters: Hyperparameters | Mapping[str, Any], sizes: Sizes) -> Model:
    """The untrained model of these hyperparameters, typed or as a plain dict.

    Raises:
        ModelError: an unknown name, or the model refuses its hyperparameters or the catalog.
    """
    typed = hyperparameters if isinstance(hyperparameters, Hyperparameters) else parse(hyperparameters)
    return model_class(typed.name)(typed, sizes)
