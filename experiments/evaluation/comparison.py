"""Choose among measured models and compare them in pairs, on the same cases and the same resamples of users."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from experiments.evaluation.bootstrap import ALL_CASES, paired_differences
from experiments.evaluation.cases import HEADLINE, PRIMARY, TARGETS, align_cases, same_cases, true_ranks
from experiments.evaluation.metrics_files import CompareError, MeasuredModel, check_same_split, entry_value
from training.metrics import geometric_mean, ndcg

FITTED_PARAMETERS = ("best_steps", "train_events", "weights")  # added by a fit, so not part of a configuration
DEFAULT_SUFFIX = "_default"  # ends the label of the same model with its default configuration

Frames = Callable[[MeasuredModel], Sequence[pd.DataFrame]]  # the rankings of a model, one table per seed


def best_baseline(models: Sequence[MeasuredModel], target: str) -> str | None:
    """Label of the baseline with the highest NDCG@10 on a target, the first of equals; None without baselines."""
    scores = {
        model.label: model.point(target, PRIMARY) for model in models if model.baseline and target in model.targets
    }
    return min(scores, key=lambda label: (-(scores[label] or 0.0), label), default=None)


def best_on_validation(models: Sequence[MeasuredModel], learned: bool) -> str | None:
    """Label of the learned (or not learned) model that is best on validation; test results have no influence.

    The gate's candidate and the first champion are chosen this way. A learned baseline is neither.
    """
    scores = {
        model.label: validation_score(model)
        for model in models
        if model.learned == learned and not (model.learned and model.baseline) and not model.oracle and model.validation
    }
    return max(scores, key=lambda label: (scores[label], label), default=None)


def validation_score(model: MeasuredModel) -> float:
    """Geometric mean of the targets' NDCG@10 on validation: what goes live has to serve both."""
    return geometric_mean(entry_value(scores[PRIMARY]) or 0.0 for scores in model.validation.values())


def comparisons(
    models: Sequence[MeasuredModel], frames: Frames, seed: int, resamples: int, pairs: Sequence[tuple[str, str]] = ()
) -> list[dict[str, Any]]:
    """Compare every learned model with the best baseline of each target, and each further (model, against) pair.

    Pairs are added for a tuned model and its default configuration, and for two learned models of one class that differ
    in one parameter.

    Raises:
        CompareError: a pair names an unknown label, or two models do not share split and cases.
    """
    by_label = {model.label: model for model in models}
    for label in [label for pair in pairs for label in pair if label not in by_label]:
        raise CompareError(f"no metrics of {label!r}; expected one of {', '.join(sorted(by_label))}")
    ours = [model.label for model in models if model.learned and not model.baseline and not model.oracle]
    lines = []
    for target in TARGETS:
        baseline = best_baseline(models, target)
        wanted = [(label, baseline) for label in ours if baseline is not None]
        for model, against in dict.fromkeys([*wanted, *pairs, *tuned_pairs(models), *ablation_pairs(models)]):
            one, other = by_label[model], by_label[against]
            if target in one.targets and target in other.targets:
                lines.append(compare_pair(one, other, frames, target, seed, resamples))
    return lines


def tuned_pairs(models: Sequence[MeasuredModel]) -> list[tuple[str, str]]:
    """Each tuned model with the same model in its default configuration."""
    labels = {model.label for model in models}
    return [(label, label + DEFAULT_SUFFIX) for label in sorted(labels) if label + DEFAULT_SUFFIX in labels]


def ablation_pairs(models: Sequence[MeasuredModel]) -> list[tuple[str, str]]:
    """Pairs of learned models of one class that differ in one parameter."""
    learned = [model for model in models if model.learned and not model.oracle]
    return [
        (one.label, other.label)
        for one, other in combinations(learned, 2)
        if one.model == other.model and len(_configuration(one).items() ^ _configuration(other).items()) == 2
    ]


def part_pairs(models: Sequence[MeasuredModel]) -> list[tuple[str, str]]:
    """Every hybrid with each of its parts: a sum that is no better than one of them is not worth its cost."""
    labels = {model.label for model in models}
    return [(model.label, part) for model in models for part in model.params.get("parts", {}) if part in labels]


def _configuration(model: MeasuredModel) -> dict[str, str]:
    return {name: repr(value) for name, value in model.params.items() if name not in FITTED_PARAMETERS}


def compare_pair(
    model: MeasuredModel, against: MeasuredModel, frames: Frames, target: str, seed: int, resamples: int
) -> dict[str, Any]:
    """One comparison of the result file: the paired difference of NDCG@10 over all cases, cold cases and warm cases.

    Raises:
        CompareError: the split or the cases differ.
    """
    check_same_split([model, against])
    table, ours = _case_values(frames(model), target)
    other_table, theirs = _case_values(frames(against), target)
    if not same_cases(table, other_table):
        raise CompareError(
            f"{model.label} and {against.label} have different {target} cases; evaluate both on one split"
        )
    user, cold = table["user_id"].to_numpy(str), table["history_length"].to_numpy() == 0

    def difference(mask: np.ndarray) -> dict[str, Any]:
        all_cases = paired_differences(ours[mask], theirs[mask], user[mask], {}, 0.0, seed, resamples)[ALL_CASES]
        return {key: all_cases[key] for key in ("difference", "low", "high", "relative")}

    line = {"target": target, "model": model.label, "against": against.label, "metric": PRIMARY}
    slices = {name: difference(mask) for name, mask in (("cold", cold), ("warm", ~cold)) if mask.any()}
    return line | difference(np.ones(len(user), bool)) | {"slices": slices}


def _case_values(frames: Sequence[pd.DataFrame], target: str) -> tuple[pd.DataFrame, np.ndarray]:
    """The aligned cases and their NDCG@10, averaged over the seeds."""
    tables = align_cases(frames, target)
    return tables[0], np.mean([ndcg(true_ranks(table), HEADLINE) for table in tables], axis=0)
