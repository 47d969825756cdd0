"""What a refit must have in common with its parent: everything but the events that came since."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import params
from training import provenance

OF_MANIFEST = {
    "dataset_hash": "data set version",
    "split_id": "split",
    "commit": "code commit",
    "lock_hash": "lock",
    "label": "label",
    "params": "recipe",
    "seed": "seed",
}
OF_CONFIG = {"serve": "presentation (serve)", "repeats": "rule for repeats", "refresh_minutes": "trends refresh"}
UNKNOWN = (None, "unknown")  # a commit is unknown outside git
ADVICE = "check out the parent's commit with its params.yaml and data, or retrain: a new parent can be refitted"
SHORT = 60


def departures(parent: Mapping[str, Any], child: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """How one departs from the other, a line each; what a parent does not state is a departure, too.

    Args:
        names: key -> what it is, in words.
    """
    return [
        f"its {told} is {_short(child.get(name))}, its parent's {_short(parent.get(name))}"
        for name, told in names.items()
        if parent.get(name) in UNKNOWN or child.get(name) != parent.get(name)
    ]


def at_hand(split: Mapping[str, Any], settings: params.Params) -> dict[str, Any]:
    """What a fit here and now would state; `split` is the split's manifest."""
    return {
        "dataset_hash": split["dataset_hash"],
        "split_id": split["split_id"],
        "commit": provenance.commit(),
        "lock_hash": provenance.lock_hash(),
        "serve": settings.serve.model_dump(mode="json"),
        "repeats": settings.ingest.repeats,
        "refresh_minutes": settings.featurize.trends.refresh_minutes,
    }


def _short(value: object) -> str:
    text = "not known" if value in UNKNOWN else str(value)
    return text if len(text) <= SHORT else f"{text[:SHORT]}..."
