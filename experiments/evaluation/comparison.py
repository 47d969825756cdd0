"""Which of two models is better, and by how much: paired differences on the same cases with the same
resamples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from experiments.evaluation.bootstrap import paired
from experiments.evaluation.cases import TARGETS, align, same_cases, true_ranks
from experiments.evaluation.measure import HEADLINE, number
from experiments.evaluation.measured import CompareError, Measured, must_share_split, point
from training.metrics import accuracy, geometric_mean

PRIMARY = f"ndcg@{HEADLINE}"
FOUND = ("best_steps", "train_events", "weights")  # parameters of a recipe that a fit adds
DEFAULT = "_default"  # ends the label of a model that a tuned one of the same name is to beat
STALE = 1e-9  # a stored mean further than this from the same mean of the rankings: one of the files is old

Frames = Callable[[Measured], Sequence[pd.DataFrame]]  # the rankings of a model, one table per seed


def best_peer(measured: Sequence[Measured], target: str) -> str | None:
    """Label of the peer with the highest NDCG@10 on a target, of equals the first; None without peers."""
    peers = [one for one in measured if one.peer and one.point(target, PRIMARY) is not None]
    return min(peers, key=lambda one: (-one.entry(target, PRIMARY)["mean"], one.label)).label if peers else None


def best_on_validation(measured: Sequence[Measured], learned: bool) -> str | None:
    """Label of the learned (or counted) model that is best on validation; the test window has no say.

    Best is the highest geometric mean of the targets' NDCG@10, as in early stopping and tuning: what goes live has
    to serve both. This is how the gate's candidate and the first champion are chosen. A learned peer is neither.
    """
    kind = [
        one
        for one in measured
        if one.learned == learned and not (one.learned and one.peer) and not one.oracle and one.validation
    ]
    return max(kind, key=lambda one: (on_validation(one), one.label)).label if kind else None


def on_validation(one: Measured) -> float:
    """Geometric mean of the targets' NDCG@10 on validation."""
    return geometric_mean(point(found[PRIMARY]) or 0.0 for found in one.validation.values())


def comparisons(
    measured: Sequence[Measured],
    frames: Frames,
    seed: int,
    resamples: int,
    pairs: Sequence[tuple[str, str]] = (),
) -> list[dict[str, Any]]:
    """Every learned model of ours against the best peer of each target, and each further (model, against) pair.

    Two learned models whose parameters differ in one value are such a pair: that value is what is being tried. So are
    a tuned model and the same by its default values.

    Raises:
        CompareError: a pair names an unknown label, or two models do not share split and cases.
    """
    by_label = {one.label: one for one in measured}
    for label in {label for pair in pairs for label in pair} - set(by_label):
        raise CompareError(f"no metrics of {label!r}; known are {', '.join(sorted(by_label))}")
    found = []
    for target in TARGETS:
        peer = best_peer(measured, target)
        ours = [one.label for one in measured if one.learned and not one.peer and not one.oracle]
        wanted = [(label, peer) for label in ours if peer is not None]
        for model, against in dict.fromkeys([*wanted, *pairs, *tuned(measured), *ablations(measured)]):
            one, other = by_label[model], by_label[against or ""]
            if target in one.targets and target in other.targets:
                found.append(compare_pair(one, other, frames, target, seed, resamples))
    return found


def tuned(measured: Sequence[Measured]) -> list[tuple[str, str]]:
    """Each model that was tuned, and the same by its default values."""
    labels = {one.label for one in measured}
    return [(one.label, one.label + DEFAULT) for one in measured if one.label + DEFAULT in labels]


def ablations(measured: Sequence[Measured]) -> list[tuple[str, str]]:
    """Pairs of learned models that differ in one parameter, in the order of their labels."""
    learned = [one for one in measured if one.learned and not one.oracle]
    return [
        (one.label, other.label)
        for one, other in combinations(learned, 2)
        if one.model == other.model and len(_asked(one).items() ^ _asked(other).items()) == 2
    ]


def _asked(one: Measured) -> dict[str, str]:
    """The parameters that were asked for, without what the fit found."""
    return {name: repr(value) for name, value in one.params.items() if name not in FOUND}


def compare_pair(
    model: Measured,
    against: Measured,
    frames: Frames,
    target: str,
    seed: int,
    resamples: int,
    metric: str = PRIMARY,
) -> dict[str, Any]:
    """One line of the result file: the paired difference of a metric @10, whole and on cold and warm cases.

    Raises:
        CompareError: the split or the cases differ, or a metrics file does not match its rankings.
    """
    must_share_split([model, against])
    table, mine = _values(model, frames(model), target, metric)
    other_table, theirs = _values(against, frames(against), target, metric)
    if not same_cases(table, other_table):
        both = len(set(table["case_id"]) & set(other_table["case_id"]))
        raise CompareError(
            f"{model.label} has {len(table)} {target} cases, {against.label} {len(other_table)}, "
            f"{both} in common; evaluate both on one split"
        )
    user, cold = table["user_id"].to_numpy(str), table["history_length"].to_numpy() == 0

    def difference(mask: np.ndarray) -> dict[str, Any]:
        found = asdict(paired(mine[mask], theirs[mask], user[mask], seed, resamples))
        return {key: number(found[key]) for key in ("difference", "low", "high", "relative")}

    head = {"target": target, "model": model.label, "against": against.label, "metric": metric}
    parts = {name: difference(mask) for name, mask in (("cold", cold), ("warm", ~cold)) if mask.any()}
    return head | difference(np.ones(len(user), bool)) | {"slices": parts}


def _values(one: Measured, frames: Sequence[pd.DataFrame], target: str, metric: str) -> tuple[pd.DataFrame, np.ndarray]:
    """The aligned cases and their metric, averaged over the seeds."""
    tables = align(frames, target)
    values = np.mean([accuracy(true_ranks(table), [HEADLINE])[metric] for table in tables], axis=0)
    stored = one.point(target, metric)
    if stored is None or abs(values.mean() - stored) > STALE:
        raise CompareError(
            f"{one.label}: its metrics file says {target} {metric} = {stored}, its rankings give "
            f"{values.mean():.10g}; one of the two is old: run evaluate again"
        )
    return tables[0], values
