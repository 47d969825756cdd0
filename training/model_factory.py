"""From params.yaml and features to models: typed hyperparameters, input sizes, untrained models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from config import params
from config.params import ParamsError
from config.search_space import Space, spaces_around
from config.validation import ModelSection
from features.feature_files import Features
from training.models.base import Hyperparameters, Model, ModelError, Sizes, build, model_class, parse
from training.models.hybrid import HybridHyperparameters


def load_settings(path: Path | str = "params.yaml") -> params.Params:
    """params.yaml with typed `train.models`: every command that fits or tunes a model reads its settings here.

    Raises:
        ParamsError: one line per fault of the file, also of `train.models` and of `tune.spaces`.
    """
    return with_typed_models(params.load(path), Path(path))


def with_typed_models(settings: params.Params, path: Path) -> params.Params:
    """The settings with each entry of `train.models` as the hyperparameters of its model, all of them checked.

    Raises:
        ParamsError: as `load_settings`.
    """
    typed, faults = {}, []
    for label, section in settings.train.models.items():
        try:
            typed[label] = parse(section)
        except ModelError as error:
            faults.append(f"{path.name}: train.models.{label}: {error}")
        except ValidationError as error:
            faults += params.describe_errors(error, path, ("train", "models", label))
    if not faults:
        faults = [f"{path.name}: {fault}" for fault in _contradictions(typed, settings)]
    if faults:
        raise ParamsError("\n".join(faults))
    return settings.model_copy(update={"train": settings.train.model_copy(update={"models": typed})})


def _contradictions(models: Mapping[str, Hyperparameters], settings: params.Params) -> Iterator[str]:
    """What is wrong with hybrids' parts and with `tune.spaces`, where each model is right by itself."""
    hybrids = {label: model for label, model in models.items() if isinstance(model, HybridHyperparameters)}
    for label, model in hybrids.items():
        for part in model.parts:
            if part not in models or part in hybrids:
                yield f"train: models.{label}.parts names {part}, which is no other model that is not a hybrid"
    for label, spaces in settings.tune.spaces.items():
        try:
            spaces_around(spaces, models[label])
        except ValueError as error:
            yield f"tune.spaces.{label}{error}"


def search_spaces(label: str, settings: params.Params) -> dict[str, Space]:
    """The spaces of `tune.spaces` for a model, each wide enough to contain the model's own value."""
    return spaces_around(settings.tune.spaces[label], parse(settings.train.models[label]))


def is_learned(name: str) -> bool:
    """Whether models of this name are trained, as opposed to counted or solved in closed form."""
    return model_class(name).learned


def sizes_of(features: Features) -> Sizes:
    """The sizes of a model's inputs."""
    given = {name: features.description[name] for name in ("num_items", "trait_sizes", "context_sizes", "channels")}
    return Sizes(**given, content_width=features.item_features.shape[1])


def build_model(hyperparameters: ModelSection | Mapping[str, Any], features: Features) -> Model:
    """The untrained model for these features.

    Raises:
        ModelError: an unknown name, or the model refuses its hyperparameters or the catalog.
    """
    return build(hyperparameters, sizes_of(features))
