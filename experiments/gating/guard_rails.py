"""Guard rails: what accuracy does not see. A candidate's lists may not narrow far below the champion's."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.evaluation.beyond_accuracy import counts, coverage, diversity, list_means
from experiments.evaluation.catalogue import Catalogue
from experiments.evaluation.measure import number
from experiments.evaluation.scoring import HEADLINE
from gate_params import GuardRails

AT_LEAST, AT_MOST = "at least", "at most"
MEANINGS = {
    "coverage": "share of the catalogue that is among the first 10 of any list",
    "diversity": "1 - mean cosine of the content of all pairs among the first 10, averaged over lists",
    "popularity_lift": "training events of an item shown, over those of an average item of the catalogue",
}


def of_lists(lists: np.ndarray, catalogue: Catalogue) -> dict[str, float]:
    """The figure of each guard rail of (n, k) lists; NaN where items have no content, or nothing is shown."""
    recommended = counts(lists, HEADLINE, len(catalogue.ids))
    shown = list_means(lists, catalogue.popularity, HEADLINE)
    varied = np.full(1, np.nan) if catalogue.unit is None else diversity(lists, catalogue.unit, HEADLINE)
    average = catalogue.popularity[catalogue.member].mean()
    return {
        "coverage": coverage(recommended, catalogue.member),
        "diversity": _mean(varied),
        "popularity_lift": _mean(shown) / average if average else float("nan"),
    }


def rails(ours: dict[str, float], theirs: dict[str, float], policy: GuardRails) -> list[dict[str, Any]]:
    """One row a guard rail: {"name", "candidate", "champion", "kind", "limit", "within"}; undefined figures are within."""
    rows = []
    for name, ratio in policy.model_dump().items():
        kind = AT_MOST if name == "popularity_lift" else AT_LEAST
        limit = ratio * theirs[name]
        broken = ours[name] > limit if kind == AT_MOST else ours[name] < limit
        rows.append(
            {"name": name, "candidate": number(ours[name]), "champion": number(theirs[name]), "kind": kind,
             "limit": number(limit), "within": not broken}
        )  # fmt: skip
    return rows


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")
