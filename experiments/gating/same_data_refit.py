"""The champion's recipe fitted on the candidate's data: is a gain the idea's, or only the fresher data's?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np

from config import params
from config.command import UserError
from config.model_params import ModelParams
from experiments.evaluation.comparison import FOUND, WHOLE, contrasts
from experiments.gating.verdict import level
from features.feature_files import Features
from features.sequences import EvaluationCases
from training import validation
from training.train import fit


def why_not(candidate: Mapping[str, Any], champion: Mapping[str, Any], features: Features, asked: bool) -> str | None:
    """Why a refit would say nothing, or was not done; None where it is to be done. Arguments are manifests."""
    if all(candidate[key] == champion[key] for key in ("dataset_hash", "fit_until_us")):
        return "not needed: both were fitted on the same data, so no difference is that of fresher data"
    if asked_of(candidate["params"]) == asked_of(champion["params"]):
        return (
            "not needed: the candidate is the champion's recipe on newer data, so all of the difference is the data's"
        )
    if (
        candidate["fit_until_us"] != features.cut_us
        or candidate["dataset_hash"] != features.description["dataset_hash"]
    ):
        return "not possible: the data that the candidate was fitted on is not the one at hand"
    if not asked:
        return "not done: this report cannot tell the idea from the fresher data; ask with --refit (it takes a fit)"
    return None


def asked_of(recipe: Any) -> Any:
    """A recipe without what its fit found: the parameters that a person chose."""
    if not isinstance(recipe, dict):
        return recipe
    return {name: asked_of(value) for name, value in recipe.items() if name not in FOUND}


def refit(
    recipe: dict, ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], cases: Mapping[str, EvaluationCases],
    features: Features, settings: params.Params, looks: int,
) -> dict[str, Any]:  # fmt: skip
    """Fit the champion's recipe at the present cut, and set it between the two.

    Args:
        recipe: the champion's, as its fit at its own cut had it.
        ours, theirs: target -> (n,) NDCG@10 of candidate and champion.

    Returns:
        {"seconds", "data": {target: contrast of refit and champion}, "idea": {target: of candidate and refit}}.
    """
    policy = settings.gate
    result = fit(recipe, features, settings.train, settings.train.seed)
    trends, size = features.trend_log(), settings.train.eval_batch_size
    again = {t: validation.ndcg(result.model, features, every, trends, size) for t, every in cases.items()}

    def between(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> dict[str, dict]:
        return {
            target: contrasts(one[target], other[target], every.user, {}, policy.margin, settings.seed, policy.resamples,
                              level(policy, looks))[WHOLE]
            for target, every in cases.items()
        }  # fmt: skip

    return {"seconds": round(result.seconds, 1), "data": between(again, theirs), "idea": between(ours, again)}


CLASSES = {part.model_fields["name"].annotation.__args__[0]: part for part in get_args(get_args(ModelParams)[0])}


def stated(label: str, recipe: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Sections of train.models by label: the recipe's own, and those of a hybrid's parts.

    What a fit adds to its recipe (steps, weights, sizes) is left out: newer data brings its own. Of several values
    that validation chose among, the chosen one is what is stated.

    Raises:
        UserError: it is of a model that this code does not know.
    """
    if recipe.get("name") not in CLASSES:
        raise UserError(
            f"{label} is a {recipe.get('name')!r}, which this code cannot fit; it knows {', '.join(CLASSES)}"
        )
    parts = recipe.get("parts", {})
    found = {name: section for part, inner in parts.items() for name, section in stated(part, inner).items()}
    fields = CLASSES[recipe["name"]].model_fields
    own = {name: recipe[name] for name in fields if name in recipe}
    if parts:
        own["parts"] = list(parts)
    if "l2" in own and not isinstance(own["l2"], list):
        own["l2"] = [own["l2"]]
    if absent := fields.keys() - own.keys():
        raise UserError(
            f"the recipe of {label} lacks {', '.join(sorted(absent))}, which this code's {recipe['name']} has"
        )
    return found | {label: own}
