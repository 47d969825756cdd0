"""Metrics files of evaluated models: read them, choose among the models, and compare these in pairs.

Two models are compared on the same cases and the same resamples of users.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict

from config.command import UserError
from experiments.evaluation.bootstrap import ALL_CASES, paired_differences
from experiments.evaluation.cases import HEADLINE, PRIMARY, TARGETS, align_cases, same_cases, true_ranks
from training.metrics import geometric_mean, ndcg

FITTED_PARAMETERS = ("best_steps", "train_events", "weights")  # added by a fit, so not part of a configuration
DEFAULT_SUFFIX = "_default"  # ends the label of the same model with its default configuration


class CompareError(UserError):
    """Numbers may not be compared. The message names the files and what differs."""


class MeasuredModel(BaseModel):
    """The metrics of one model, and where they come from.

    Attributes:
        label: key in params.train.models; also names the file.
        model: name of the model class.
        baseline: a learned baseline (sasrec) is compared with like the others, and never the candidate.
        learned: trained by gradient descent.
        oracle: the simulator's true preferences: an upper bound, not a model.
        rankings: files in out/experiments/rankings, one per seed.
        validation: target -> metric key -> number or {"mean": number}, measured on the validation period.
        segments: slice name -> its rule in words.
        targets: the result of `measure`. "next_item_frozen" holds `next_item` with item trends frozen at test_start.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    label: str
    model: str
    params: dict[str, Any]
    fit_seconds: float | None
    baseline: bool
    learned: bool
    oracle: bool = False
    dataset: str
    dataset_hash: str
    split_id: str
    commit: str
    date: str
    command: str
    seeds: list[int]
    rankings: list[str] | None = None
    validation: dict[str, dict[str, Any]] = {}
    segments: dict[str, str] = {}
    targets: dict[str, dict[str, Any]]

    def ranking_files(self, folder: Path) -> list[Path]:
        """One rankings file per seed; <label>.parquet by default."""
        return [folder / name for name in self.rankings or [f"{self.label}.parquet"]]

    def point(self, target: str, key: str, slice_name: str | None = None) -> float | None:
        """The mean (or value) of a metric; None if it was not measured."""
        return entry_value(self.entry(target, key, slice_name))

    def entry(self, target: str, key: str, slice_name: str | None = None) -> dict[str, Any]:
        """{"mean", "low", "high"} or {"value"} of a metric; empty if it was not measured."""
        measured = self.targets.get(target, {})
        if slice_name is not None:
            measured = measured.get("slices", {}).get(slice_name, {})
        return measured.get("metrics", {}).get(key, {})


Frames = Callable[[MeasuredModel], Sequence[pd.DataFrame]]  # the rankings of a model, one table per seed


def entry_value(entry: Any) -> float | None:
    """The number in {"mean": x}, {"value": x} or x itself."""
    return entry.get("mean", entry.get("value")) if isinstance(entry, dict) else entry


def read_metrics(folder: Path, dataset: str) -> list[MeasuredModel]:
    """Read the metrics files of one dataset, by label; files of other datasets are skipped.

    Raises CompareError if there is no file, or the files rest on different splits or data.
    """
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.json"))]
    models = [MeasuredModel.model_validate_json(text) for text in texts]
    own = [model for model in models if model.dataset == dataset]
    if not own:
        others = sorted({model.dataset for model in models})
        hint = f", only of {others}" if others else "; run evaluate"
        raise CompareError(f"{folder} holds no metrics of {dataset!r}{hint}")
    check_same_split(own)
    return own


def check_same_split(models: list[MeasuredModel]) -> None:
    """Raise CompareError unless numbers rest on one split of one dataset, and a segment means the same in all."""
    first, *others = models
    for name in ("split_id", "dataset_hash", "segments"):
        for other in others:
            if getattr(first, name) != getattr(other, name):
                raise CompareError(
                    f"{first.label} was measured on {name} {getattr(first, name)}, {other.label} on "
                    f"{getattr(other, name)}; evaluate both on one split with the same segments.rules"
                )


def best_baseline(models: Sequence[MeasuredModel], target: str) -> str | None:
    """Label of the baseline with the highest NDCG@10 on a target, the first of equals; None without baselines."""
    scores = {
        model.label: model.point(target, PRIMARY) for model in models if model.baseline and target in model.targets
    }
    return min(scores, key=lambda label: (-(scores[label] or 0.0), label), default=None)


def best_on_validation(models: Sequence[MeasuredModel], learned: bool) -> str | None:
    """Label of the learned (or not learned) model that is best on validation; test results have no influence.

    The gate's candidate and the first champion are chosen this way. A learned baseline is neither. If validation had no
    cases, the label decides.
    """
    eligible = [
        model
        for model in models
        if model.learned == learned and not (model.learned and model.baseline) and not model.oracle
    ]
    measured = [model for model in eligible if model.validation] or eligible
    scores = {model.label: validation_score(model) for model in measured}
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

    Raises CompareError if the split or the cases differ.
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
