"""Target probe: after items are shuffled over times, no feature may tell which item was taken.

Each next_item case is paired with a later case of another user: a duel. A feature scores the items of both as of the
earlier case's time, and wins if it scores the item taken there higher. With the true times, a useful feature wins more
than half of the decided duels. Then all items are shuffled over all events, and histories, trends and cases are made
from that log by the same code. Now the two items of a duel are exchangeable: neither is in the past that the feature
may read. The share won must fall to one half, and the number won is binomial. It stays above one half where a feature
reads the event that it is asked about. An exact one-sided sign test decides, at `audit.probe_alpha` divided by the
number of features. Items are shuffled over everybody, not within users: a user's taste would survive within users.

What a source states with a request or user (context, traits) cannot be tested in this way. With the true times, it is
compared with `audit.too_good`: a column that nearly always tells the item taken was derived from it.

Legend: D duels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array
from scipy.stats import binomtest

from data.columns import USER
from data.times import to_iso
from experiments.evaluation import bootstrap
from experiments.leakage.cut import AuditedCut, Finding, Outcome, Row
from features.encode import Batch
from features.feature_files import Features
from features.sequences import EvaluationCases, InteractionLog, batches
from features.vocabulary import PAD
from training import validation

IN_HISTORY = 1e6  # added to the score of an item that the history holds
BATCH_SIZE = 32
PRIOR = 5  # pseudo-events of an item, so that a rare one says little


@dataclass(frozen=True)
class Duels:
    """Pairs of cases: the case that is asked, its item, and the item of the later case; each (D,)."""

    case: np.ndarray
    own: np.ndarray
    other: np.ndarray

    def items(self) -> np.ndarray:
        """(D, 2) both items."""
        return np.stack([self.own, self.other], axis=1)


@dataclass(frozen=True)
class ProbedLog:
    """The duels of one log, and the scores of both items of each.

    Attributes:
        read: feature -> (D, 2) scores by what is read from the log.
        stated: column -> (D, 2) scores by what the source states.
    """

    cases: EvaluationCases
    duels: Duels
    read: dict[str, np.ndarray]
    stated: dict[str, np.ndarray]


def probe(cut: AuditedCut) -> Outcome:
    """With items shuffled over times, no feature tells the item taken from another case's."""
    settings, rng = cut.settings.audit, np.random.default_rng([cut.settings.seed, 1])
    log = cut.features.log
    shuffled = replace(cut.features, log=replace(log, items=rng.permutation(log.items)))
    true, again = probe_features(cut, cut.features), probe_features(cut, shuffled)
    level = settings.probe_alpha / max(1, len(again.read))
    findings = [
        _leaking_feature(cut, name, true, count_won(scores))
        for name, scores in again.read.items()
        if p_of_chance(*count_won(scores)) < level
    ]
    findings += [
        _too_good_column(cut, name, true)
        for name, scores in true.stated.items()
        if bootstrap.wilson_interval(*count_won(scores))[0] > settings.too_good
    ]
    if not findings and not any(p_of_chance(*count_won(scores)) < level for scores in true.read.values()):
        findings = [Finding(
            "the probe finds nothing with the true times either", 0, [],
            "There are too few cases, or neither order nor trends matter here, so little could fall.",
            "Nothing to do; the other checks do not depend on it.", fails=False,
        )]  # fmt: skip
    rows = [
        {
            "feature": name,
            "won with the true times": _share(scores),
            "won with shuffled items": _share(again.read.get(name)),
        }
        for name, scores in (true.read | true.stated).items()
    ]
    return Outcome(len(again.duels.case), "duels", findings, rows)


def probe_features(cut: AuditedCut, features: Features) -> ProbedLog:
    """Draw duels of next_item cases, and score both items of each."""
    every = validation.sample(
        validation.cases(features)["next_item"], cut.settings.audit.probed_cases, cut.settings.seed
    )
    cases = every.take(np.argsort(every.time, kind="stable"))
    newest, seen = read_histories(features, cases)
    duels = draw_duels(cases, seen, len(features.vocabulary), np.random.default_rng([cut.settings.seed, 2]))
    scores = trend_scores(features, cases, duels)
    scores["history"] = history_scores(features, newest, seen, duels)
    return ProbedLog(cases, duels, scores, stated_scores(features, cases, duels))


def read_histories(features: Features, cases: EvaluationCases) -> tuple[np.ndarray, np.ndarray]:
    """(n,) the newest item of each history, and the sorted keys (case * N + item) of all items that they hold."""
    newest, seen = np.zeros(len(cases), dtype=np.int64), [np.empty(0, dtype=np.int64)]
    for rows, batch in _batches(features, cases, ()):
        newest[rows] = batch.items[:, -1].numpy()
        row, item = batch.seen.numpy()
        seen.append(rows[row] * len(features.vocabulary) + item)
    return newest, np.unique(np.concatenate(seen))


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
    return Duels(first[fair], own[fair], other[fair])


def trend_scores(features: Features, cases: EvaluationCases, duels: Duels) -> dict[str, np.ndarray]:
    """Trend -> (D, 2) its values of both items as of the earlier case."""
    channels = tuple(features.description["channels"])
    values = np.zeros((len(duels.case), 2, len(channels)))
    for rows, batch in _batches(features, cases.take(duels.case), channels):
        values[rows] = batch.trends[batch.moment[:, None], duels.items()[rows]].numpy()
    return {f"trend {channel}": values[:, :, column] for column, channel in enumerate(channels)}


def history_scores(features: Features, newest: np.ndarray, seen: np.ndarray, duels: Duels) -> np.ndarray:
    """(D, 2) how often each item came right after the history's newest one, before the cut."""
    size = len(features.vocabulary)
    followed, items = transitions(features.past, size), duels.items()
    counted = np.asarray(followed[newest[duels.case][:, None].repeat(2, axis=1).ravel(), items.ravel()])
    return counted.reshape(items.shape) + IN_HISTORY * np.isin(duels.case[:, None] * size + items, seen)


def transitions(past: InteractionLog, num_items: int) -> csr_array:
    """(N, N) how often one item came right after another of an earlier time: a first-order Markov chain."""
    users, times, items = past.users, past.times, past.items
    step = (users[1:] == users[:-1]) & (times[1:] > times[:-1]) & (items[1:] != PAD) & (items[:-1] != PAD)
    return csr_array((np.ones(step.sum()), (items[:-1][step], items[1:][step])), shape=(num_items, num_items))


def stated_scores(features: Features, cases: EvaluationCases, duels: Duels) -> dict[str, np.ndarray]:
    """Column -> (D, 2) how much more likely each item is given the column's value, counted before the cut."""
    past, encoders = features.past, features.description["encoders"]
    kinds = (
        ("context", past.context, cases.context),
        ("traits", past.traits[past.users], features.log.traits[cases.user]),
    )
    return {
        f"{kind} {encoder['column']}": _lift(past.items, learned[:, column], asked[duels.case, column], duels, features)
        for kind, learned, asked in kinds
        for column, encoder in enumerate(encoders[kind])
    }


def _lift(items: np.ndarray, learned: np.ndarray, asked: np.ndarray, duels: Duels, features: Features) -> np.ndarray:
    """(D, 2) share of an item's events with the column's present value; 0 if that is unknown."""
    size, values = len(features.vocabulary), int(max(learned.max(initial=0), asked.max(initial=0))) + 1
    together = np.bincount(learned * size + items, minlength=values * size)
    counts, pairs = np.bincount(items, minlength=size), duels.items()
    return (asked[:, None] != 0) * together[asked[:, None] * size + pairs] / (counts[pairs] + PRIOR)


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


def _share(scores: np.ndarray | None) -> str:
    if scores is None or not count_won(scores)[1]:
        return "-"
    (won, decided), (low, high) = count_won(scores), bootstrap.wilson_interval(*count_won(scores))
    return f"{won / decided:.3f} [{low:.3f}, {high:.3f}] of {decided:,}"


def _examples(cut: AuditedCut, probed: ProbedLog, scores: np.ndarray) -> list[Row]:
    """The duels that are won by most."""
    best, duels = np.argsort(scores[:, 1] - scores[:, 0], kind="stable")[: cut.settings.audit.examples], probed.duels
    return [
        {
            USER: cut.user(int(probed.cases.user[duels.case[row]])),
            "asked at": to_iso(probed.cases.time[duels.case[row]]),
            "item taken": cut.item(int(duels.own[row])),
            "its score": f"{scores[row, 0]:.4g}",
            "item of a later case": cut.item(int(duels.other[row])),
            "its score then": f"{scores[row, 1]:.4g}",
        }
        for row in best
    ]


def _leaking_feature(cut: AuditedCut, name: str, true: ProbedLog, won: tuple[int, int]) -> Finding:
    return Finding(
        f"the feature {name} tells the item taken even with shuffled items: in {won[0] / won[1]:.0%} of duels",
        won[0], _examples(cut, true, true.read[name]),
        "After shuffling, nothing in the past can tell the item: the feature reads the very event that it is asked about.",
        "The check `time travel` shows on which rows; see the code that makes the feature.",
    )  # fmt: skip


def _too_good_column(cut: AuditedCut, name: str, true: ProbedLog) -> Finding:
    scores, bound = true.stated[name], cut.settings.audit.too_good
    return Finding(
        f"{name} tells the item taken in more than {bound:.0%} of the duels", count_won(scores)[0],
        _examples(cut, true, scores),
        "A column that tells this much was most likely derived from the event that it is said to precede.",
        "Find out how the source fills it. Leave it out of `featurize.context`, or of the side table, if it is known only "
        "afterwards. If it is truly known before, raise `audit.too_good`.",
    )  # fmt: skip
