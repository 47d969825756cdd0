"""The contract of every model: what it is built from and what it answers; and how a model is found by its name.

Legend: B batch, N item rows (PAD's included), M candidates, T moments, V content width, C trend channels, D width.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from pydantic import BeforeValidator, ConfigDict
from torch import Tensor, nn

from config.validation import ModelSection
from features.encode import Batch

EXCLUDED = float("-inf")  # score of an item that may not be recommended


class Hyperparameters(ModelSection):
    """What a person chooses of a model: one entry of `train.models` in params.yaml. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid")


# For a list of values to choose from: a fit stores the one that it chose.
AS_LIST = BeforeValidator(lambda value: [value] if isinstance(value, int | float) else value)


class Factors(NamedTuple):
    """Scores as products: score[b, j] = user[b] · item[j] + bias[j] + trend_weights[b] · trends[moment[b], :, j]."""

    user: Tensor  # (B, D)
    item: Tensor  # (N, D)
    bias: Tensor  # (N,)
    trend_weights: Tensor  # (B, C)

    def query_vectors(self) -> Tensor:
        """(B, D + 1 + C): what `item_vectors` are multiplied with."""
        return torch.cat([self.user, torch.ones_like(self.user[:, :1]), self.trend_weights], dim=1)

    def item_vectors(self, trends: Tensor) -> Tensor:
        """(N, D + 1 + C): each item's vector, bias and the (C, N) log trends of a moment."""
        return torch.cat([self.item, self.bias[:, None], trends.T.to(self.item.dtype)], dim=1)


Search = Callable[[Factors], Tensor]  # finds the (B, M) item rows that each request is answered from


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model's inputs; part of the artifact's config."""

    num_items: int  # N
    content_width: int  # V
    trait_sizes: list[int] = field(default_factory=list)  # rows per user trait
    context_sizes: list[int] = field(default_factory=list)  # rows per context column
    channels: list[str] = field(default_factory=list)  # trend channels that exist

    def as_dict(self) -> dict:
        return asdict(self)


class ModelError(ValueError):
    """A model cannot be built or fitted as requested; the text says why."""


HyperparametersT = TypeVar("HyperparametersT", bound=Hyperparameters)


class Model(nn.Module, Generic[HyperparametersT]):
    """A model ranks the whole catalog for histories that it has never seen.

    A subclass declares what it reads: `channels` (item trends), `max_history` (the newest events; None is all) and
    `personal` (whether the history matters).
    """

    name: ClassVar[str]
    hyperparameters_type: ClassVar[type[Hyperparameters]]
    learned: ClassVar[bool] = False  # trained, as opposed to counted or solved in closed form
    baseline: ClassVar[bool] = False  # what our models are compared with; never the gate's candidate
    personal: ClassVar[bool] = True
    retrieve: int | None = None  # how many of the best items its ranking rests on; None: only on those ranked

    def __init__(self, hyperparameters: HyperparametersT, sizes: Sizes) -> None:
        super().__init__()
        self.hyperparameters, self.sizes = hyperparameters, sizes
        self.channels: tuple[str, ...] = ()
        self.max_history: int | None = None

    def scores(self, batch: Batch) -> Tensor:
        """(B, N) float32, higher is better. Finite, except column 0 (padding), which nobody reads."""
        raise NotImplementedError

    def scores_of(self, batch: Batch, rows: Tensor) -> Tensor:
        """(B, M) scores of each request's own (B, M) item rows: equal to those of `scores` up to rounding."""
        return self.scores(batch).gather(1, rows)

    @property
    def searchable(self) -> bool:
        """Whether an index can find the items that may come first: `factored` and `shortlist` are implemented."""
        return False

    def factored(self, batch: Batch) -> tuple[Factors, Tensor]:
        """What an index searches by, and the (T, C, N) log trends that the trend weights apply to."""
        raise NotImplementedError

    def shortlist(self, batch: Batch, search: Search) -> tuple[Tensor, Tensor]:
        """The (B, M) item rows that `search` finds, and their scores as in `scores_of`."""
        raise NotImplementedError

    def freeze(self) -> None:
        """Compute once what does not depend on the request. For serving: the weights must not change afterwards."""

    def personalizes_cold_users(self) -> bool:
        """Whether traits or context personalize an answer without any history."""
        return False


class MatrixModel(Model[HyperparametersT]):
    """A model that is counted or solved from a matrix of interactions."""

    baseline = True

    def fit(self, matrix, seed: int) -> None:
        """Fit to a scipy CSR matrix of (users, N) interactions, all before the cut.

        Args:
            seed: of random starting values.
        """
        raise NotImplementedError


def check_catalog_size(name: str, num_items: int, max_items: int) -> None:
    """Raise ModelError where a catalog's square matrix would not fit into memory."""
    if num_items > max_items:
        gigabytes = num_items**2 * 4 / 1e9
        raise ModelError(
            f"{name}: {num_items} items exceed max_items = {max_items}; its square matrix would take {gigabytes:.1f} GB"
        )


def sum_over_history(table: Tensor, batch: Batch) -> Tensor:
    """(B, N) sums of the rows of `table` (N, N) over each history."""
    return nn.functional.embedding_bag(batch.items, table, mode="sum", padding_idx=0)


def fall_back_without_history(batch: Batch, personal: Tensor, fallback: Tensor) -> Tensor:
    """Personal scores (B, N) where there is a history, `fallback` (N,) where there is none."""
    has_history = (batch.items != 0).any(dim=1, keepdim=True)
    return torch.where(has_history, personal, fallback)


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
