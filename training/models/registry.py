"""From a name to a model."""

from __future__ import annotations

from training.models.base import Model, ModelError, Sizes
from training.models.ease import Ease
from training.models.hybrid import Hybrid
from training.models.ials import Ials
from training.models.item_knn import ItemKNN
from training.models.neural_cf import NeuralCF
from training.models.popularity import Popularity
from training.models.sasrec import SASRec
from training.models.two_tower import TwoTower

MODELS: dict[str, type[Model]] = {
    model.name: model for model in (Popularity, ItemKNN, Ease, Ials, SASRec, TwoTower, NeuralCF, Hybrid)
}


def build(params: dict, sizes: Sizes) -> Model:
    """The untrained model that `params["name"]` names.

    Raises:
        ModelError: an unknown name; the text lists the known ones.
    """
    try:
        model = MODELS[params["name"]]
    except KeyError:
        raise ModelError(f"no model is called {params['name']!r}; there are {', '.join(MODELS)}") from None
    return model(params, sizes)
