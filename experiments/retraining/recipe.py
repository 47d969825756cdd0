"""The recipe of a registered version as params.yaml would state it: what the champion is fitted by once more."""

from __future__ import annotations

from typing import Any, get_args

from command import UserError
from model_params import ModelParams

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
