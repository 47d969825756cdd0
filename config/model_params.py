"""Hyperparameters of the models in params.yaml: one class for each model name of `train.models`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from config.validation import Count, Fraction, NonNegativeInt, Positive, Section, Share


class Popularity(Section):
    name: Literal["popularity"]
    days: Count | None  # counts the events of the last days; None: all


class ItemKNN(Section):
    name: Literal["item_knn"]
    shrinkage: Annotated[float, Field(ge=0)]
    num_neighbors: Count
    max_items: Count


class Ease(Section):
    name: Literal["ease"]
    l2: Annotated[list[Positive], Field(min_length=1)]  # the best on validation is used
    max_items: Count


class Ials(Section):
    name: Literal["ials"]
    num_factors: Count
    alpha: Annotated[float, Field(ge=1)]  # confidence in an event; a missing one has 1
    regularization: Positive
    iterations: Count


class Learned(Section):
    """Hyperparameters that all networks share."""

    channels: list[str]  # item trends in the input, from those of featurize.trends
    max_history: Count  # newest events in the input
    embedding_dim: Count
    num_heads: Count  # must divide embedding_dim
    dropout: Fraction
    trend_step_hours: Count  # between the trends that training uses; serving uses live ones
    horizon_samples: NonNegativeInt  # per user and epoch
    horizon_half_life_days: Positive | None  # older moments are sampled less; None: all alike
    horizon_weight: Fraction  # share of the loss
    batch_size: Count
    learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    warmup_steps: Count
    ema_decay: Share  # per step, of the moving average of the weights
    max_epochs: Count
    max_steps: Count  # whichever of the two comes first
    patience: Count  # epochs without a better validation score before training stops


class SASRec(Learned):
    name: Literal["sasrec"]
    channels: Annotated[list[str], Field(min_length=1, max_length=1)]  # the ranking for users without history
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
    num_negatives: Count  # per event
    alpha: Annotated[float, Field(ge=0, le=1)]  # 0 samples items evenly, 1 by popularity


class Hybrid(Section):
    name: Literal["hybrid"]
    parts: Annotated[list[str], Field(min_length=2)]  # labels of train.models
    retrieve: Count | None  # the other parts rank only this many items of the first part; None: the whole catalog
    # Regularization of the weights toward equal shares; the best on validation is used.
    l2: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1)]


ModelParams = Annotated[
    Popularity | ItemKNN | Ease | Ials | SASRec | TwoTower | NeuralCF | Hybrid, Field(discriminator="name")
]
