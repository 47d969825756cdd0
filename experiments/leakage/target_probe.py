"""Target probe: after items are shuffled over times, no feature may predict which item was taken.

Each next_item case is paired with a later case of another user: a duel. A feature scores the items of both as of the
earlier case's time, and wins if it scores the item taken there higher. With the true times, a useful feature wins more
than half of the decided duels. With items shuffled over all events (not within users, whose taste would survive), the
two items of a duel are exchangeable, so the number won is binomial, unless a feature reads the event to predict. An exact
one-sided sign test decides, at `audit.probe_alpha` divided by the number of features.

Context and traits come with a request and cannot be tested in this way. With the true times, they are compared with
`audit.too_good`: a column that nearly always predicts the item taken was derived from it.

Legend: D duels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from data.columns import USER
from data.tables import timestamps
from experiments.evaluation import bootstrap
from experiments.leakage.cut import CASE_TIME, AuditedCut, Finding, Outcome
from features.encode import Batch
from features.feature_files import Features
from features.sequences import EvaluationCases, batches
from training import validation

BATCH_SIZE = 32
PRIOR = 5  # pseudo-events of an item, so that a rare one has little weight


class Duels(NamedTuple):
    """Pairs of cases: the row of the earlier case, (D,), and the items of both cases, (D, 2), its own first."""

    case: np.ndarray
    items: np.ndarray


class ProbedLog(NamedTuple):
    """The duels of one log, and the (D, 2) scores of both items of each: of features, and of the requests' columns."""

    cases: EvaluationCases
    duels: Duels
    features: dict[str, np.ndarray]
    columns: dict[str, np.ndarray]


def probe(cut: AuditedCut) -> Outcome:
    """With items shuffled over times, no feature prefers the item taken to another case's.

    A feature that does reads the event that it should predict; `time travel` shows on which rows. A context column or
    trait that predicts nearly every item was most likely derived from it: find out how the source fills it, and leave it out
    of `featurize.context` or the side table if it is known only afterwards, else raise `audit.too_good`.
    """
    settings, rng = cut.settings.audit, np.random.default_rng([cut.settings.seed, 1])
    log = cut.features.log
    shuffled = replace(cut.features, log=replace(log, items=rng.permutation(log.items)))
    true, again = probe_features(cut, cut.features), probe_features(cut, shuffled)
    level = settings.probe_alpha / max(1, len(again.features))
    findings = [
        _finding(cut, f"the feature {name} predicts the item taken even with shuffled items", true, true.features[name])
        for name, scores in again.features.items()
        if p_of_chance(*count_won(scores)) < level
    ] + [
        _finding(cut, f"{name} predicts the item taken in more than {settings.too_good:.0%} of the duels", true, scores)
        for name, scores in true.columns.items()
        if bootstrap.wilson_interval(*count_won(scores))[0] > settings.too_good
    ]
    rows = [
        {
            "feature": name,
            "won with the true times": _share(scores),
            "won with shuffled items": _share(again.features[name]) if name in again.features else "-",
        }
        for name, scores in (true.features | true.columns).items()
    ]
    return Outcome(len(again.duels.case), "duels", findings, rows)


def probe_features(cut: AuditedCut, features: Features) -> ProbedLog:
    """Draw duels of next_item cases, and score both items of each."""
    every = validation.sample(
        validation.cases(features)["next_item"], cut.settings.audit.probed_cases, cut.settings.seed
    )
    cases = every.take(np.argsort(every.time, kind="stable"))
    seen = read_histories(features, cases)
    duels = draw_duels(cases, seen, len(features.vocabulary), np.random.default_rng([cut.settings.seed, 2]))
    scores = trend_scores(features, cases, duels)
    scores["history"] = np.isin(duels.case[:, None] * len(features.vocabulary) + duels.items, seen).astype(float)
    return ProbedLog(cases, duels, scores, column_scores(features, cases, duels))


def read_histories(features: Features, cases: EvaluationCases) -> np.ndarray:
    """Sorted keys (case * N + item) of all items that the histories hold."""
    seen = [np.empty(0, dtype=np.int64)]
    for rows, batch in _batches(features, cases, ()):
        row, item = batch.seen.numpy()
        seen.append(rows[row] * len(features.vocabulary) + item)
    return np.unique(np.concatenate(seen))


def draw_duels(cases: EvaluationCases, seen: np.ndarray, num_items: int, rng: np.random.Generator) -> Duels:
    """Pair cases at random, each at most once, so that duels are independent; neither history may hold either item.

    Args:
        cases: ordered by time.
    """
    pairs = rng.permutation(len(cases) // 2 * 2).reshape(-1, 2)
    first, second = np.sort(pairs, axis=1).T
    own, other = cases.truth[first], cases.truth[second]
    fair = (own != other) & (cases.user[first] != cases.user[second])
    fair &= ~np.isin(first * num_items + other, seen) & ~np.isin(second * num_items + own, seen)
    return Duels(first[fair], np.stack([own, other], axis=1)[fair])


def trend_scores(features: Features, cases: EvaluationCases, duels: Duels) -> dict[str, np.ndarray]:
    """Trend -> (D, 2) its values of both items as of the earlier case."""
    channels = tuple(features.description["channels"])
    values = np.zeros((len(duels.case), 2, len(channels)))
    for rows, batch in _batches(features, cases.take(duels.case), channels):
        values[rows] = batch.trends[batch.moment[:, None], duels.items[rows]].numpy()
    return {f"trend {channel}": values[:, :, column] for column, channel in enumerate(channels)}


def column_scores(features: Features, cases: EvaluationCases, duels: Duels) -> dict[str, np.ndarray]:
    """Column -> (D, 2) how much more likely each item is given the column's value, counted before the cut."""
    past, encoders = features.past, features.description["encoders"]
    kinds = (
        ("context", past.context, cases.context),
        ("traits", past.traits[past.users], features.log.traits[cases.user]),
    )
    return {
        f"{kind} {encoder['column']}": _lift(
            past.items, learned[:, column], present[duels.case, column], duels, features
        )
        for kind, learned, present in kinds
        for column, encoder in enumerate(encoders[kind])
    }


def _lift(items: np.ndarray, learned: np.ndarray, present: np.ndarray, duels: Duels, features: Features) -> np.ndarray:
    """(D, 2) share of an item's events with the column's present value; 0 if that is unknown."""
    size, values = len(features.vocabulary), int(max(learned.max(initial=0), present.max(initial=0))) + 1
    together = np.bincount(learned * size + items, minlength=values * size)
    counts, pairs = np.bincount(items, minlength=size), duels.items
    return (present[:, None] != 0) * together[present[:, None] * size + pairs] / (counts[pairs] + PRIOR)


def _batches(
    features: Features, cases: EvaluationCases, channels: tuple[str, ...]
) -> Iterator[tuple[np.ndarray, Batch]]:
    refreshed = validation.moments(cases, features.description["refresh_minutes"])
    return batches(features.log, cases, features.trend_log(), channels, refreshed, BATCH_SIZE, None)


def count_won(scores: np.ndarray) -> tuple[int, int]:
    """(duels in which the item taken scores higher, duels decided)."""
    return int((scores[:, 0] > scores[:, 1]).sum()), int((scores[:, 0] != scores[:, 1]).sum())


def p_of_chance(won: int, decided: int) -> float:
    """Probability of winning this many duels if the items are exchangeable."""
    return float(binomtest(won, decided, alternative="greater").pvalue) if decided else 1.0


def _share(scores: np.ndarray) -> str:
    won, decided = count_won(scores)
    low, high = bootstrap.wilson_interval(won, decided)
    return f"{won / decided:.3f} [{low:.3f}, {high:.3f}] of {decided:,}" if decided else "-"


def _finding(cut: AuditedCut, what: str, probed: ProbedLog, scores: np.ndarray) -> Finding:
    """The duels that are won, by most first."""
    gain = scores[:, 0] - scores[:, 1]
    won = np.argsort(-gain, kind="stable")[: int((gain > 0).sum())]
    case, items = probed.duels.case[won], cut.item_ids(probed.duels.items[won])
    rows = pd.DataFrame({
        USER: np.array(cut.features.users, dtype=object)[probed.cases.user[case]],
        CASE_TIME: timestamps(probed.cases.time[case]),
        "item taken": items[:, 0], "its score": scores[won, 0],
        "item of a later case": items[:, 1], "its score then": scores[won, 1],
    })  # fmt: skip
    return cut.finding(what, rows)
