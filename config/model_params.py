"""Types and bounds of the models of params.yaml: one class for each name that `train.models` may give."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A section that refuses keys it does not know and cannot be changed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Popularity(Section):
    name: Literal["popularity"]
    days: Count | None  # trailing window; None counts everything


class ItemKNN(Section):
    name: Literal["item_knn"]
    shrinkage: Annotated[float, Field(ge=0)]
    num_neighbors: Count
    max_items: Count


class Ease(Section):
    name: Literal["ease"]
    l2: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=1)]  # the better on validation is kept
    max_items: Count


class Ials(Section):
    name: Literal["ials"]
    num_factors: Count
    alpha: Annotated[float, Field(ge=1)]  # confidence in an event; that in a missing one is 1
    regularization: Annotated[float, Field(gt=0)]
    iterations: Count


class Learned(Section):
    """What every network has."""

    channels: list[str]  # item trends that it weighs, of those that featurize.trends gives
    max_history: Count  # the newest events that it reads
    embedding_dim: Count
    num_heads: Count  # must divide embedding_dim
    dropout: Annotated[float, Field(ge=0, lt=1)]
    trend_step_hours: Count  # between two moments whose trends training reads; serving reads live ones
    horizon_samples: Annotated[int, Field(ge=0)]  # per user and epoch: for all that the window's days will bring
    horizon_half_life_days: (
        Annotated[float, Field(gt=0)] | None
    )  # days: older moments are asked less; null asks all alike
    horizon_weight: Annotated[float, Field(ge=0, lt=1)]  # their share of the loss
    batch_size: Count
    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    warmup_steps: Count
    ema_decay: Share  # of the moving average of the weights, per step
    max_epochs: Count
    max_steps: Count  # whichever comes first
    patience: Count  # epochs without a better validation score


class SASRec(Learned):
    name: Literal["sasrec"]
    channels: Annotated[list[str], Field(min_length=1, max_length=1)]  # ranks for who has no history
    num_layers: Count
    loss: Literal["full_softmax"]


class TwoTower(Learned):
    name: Literal["two_tower"]
    num_layers: Count
    loss: Literal["full_softmax", "in_batch", "in_batch_uncorrected"]


class NeuralCF(Learned):
    name: Literal["neural_cf"]
    hidden_dim: Annotated[int, Field(ge=2)]
    loss: Literal["sampled_softmax", "bce"]
    num_negatives: Count  # sampled per event
    alpha: Annotated[float, Field(ge=0, le=1)]  # 0 samples items evenly, 1 by popularity


class Hybrid(Section):
    name: Literal["hybrid"]
    parts: Annotated[list[str], Field(min_length=2)]  # labels of train.models
    retrieve: Count | None  # the others rank only so many that the first part retrieves; null: the whole catalogue
    # Pull of the weights towards equal shares; the better on validation is kept.
    l2: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1)]


ModelParams = Annotated[
    Popularity | ItemKNN | Ease | Ials | SASRec | TwoTower | NeuralCF | Hybrid, Field(discriminator="name")
]
