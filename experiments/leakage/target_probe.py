"""Target probe: with the times dealt anew, nothing that a model reads may tell which item was taken.

Each `next_item` case is set against another that is asked later. A feature scores the items of both as of the earlier
moment, and wins where the item that was taken then scores higher. On the true times a useful feature wins more than
half of the decided duels. Then the items are dealt anew to all moments, which breaks whatever tied them to a user's
taste, an order or a season; histories, trends and cases are made of that log by the same code. The two items of a duel
are now exchangeable: neither is in the past that the feature may read, nor in either history, so that the share won
must fall to one half, and the number won is binomial. It stays above where a feature reads the event that it is asked
about, whatever the data, since that event was dealt with its item. An exact one-sided sign test decides, at
`audit.probe_alpha` over the number of features.

All moments, not those of each user alone: within a user taste would survive, and an honest feature would keep a share
that nobody can state beforehand.

What the source states of a request or a user (context, traits) cannot be put to that test. It is held, on the true
times, to `audit.too_good`: a column that names the item taken nearly always was made of it.

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
from experiments.leakage.cut import Cut, Finding, Outcome, Row
from features.encode import Batch
from features.feature_files import Features
from features.sequences import EvaluationCases, Log, batches
from features.vocabulary import PAD
from training import validation

HELD = 1e6  # what it counts more that a history holds the item itself
ENCODED_AT_ONCE = 32
PRIOR = 5  # events that an item is thought to have had beside those counted, so that a rare one says little


@dataclass(frozen=True)
class Duels:
    """Cases two by two: which case is asked, and the items of it and of the later one."""

    case: np.ndarray  # (D,)
    own: np.ndarray  # (D,) item rows
    other: np.ndarray  # (D,) item rows

    def items(self) -> np.ndarray:
        """(D, 2)"""
        return np.stack([self.own, self.other], axis=1)


def read(features: Features, cases: EvaluationCases) -> tuple[np.ndarray, np.ndarray]:
    """(n,) the newest item of each history, and the sorted keys (case * N + item) of all that they hold."""
    newest, seen = np.zeros(len(cases), dtype=np.int64), [np.empty(0, dtype=np.int64)]
    for rows, batch in _batches(features, cases, ()):
        newest[rows] = batch.items[:, -1].numpy()
        row, item = batch.seen.numpy()
        seen.append(rows[row] * len(features.vocabulary) + item)
    return newest, np.unique(np.concatenate(seen))


def _batches(
    features: Features, cases: EvaluationCases, channels: tuple[str, ...]
) -> Iterator[tuple[np.ndarray, Batch]]:
    refreshed = validation.moments(cases, features.description["refresh_minutes"])
    return batches(features.log, cases, features.trend_log(), channels, refreshed, ENCODED_AT_ONCE, None)


def draw_duels(cases: EvaluationCases, seen: np.ndarray, num_items: int, generator: np.random.Generator) -> Duels:
    """Each case at most once, so that duels are independent; the pairs whose items neither history holds."""
    pairs = generator.permutation(len(cases) // 2 * 2).reshape(-1, 2)
    first, second = np.sort(pairs, axis=1).T  # cases are in the order of time
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
    """(D, 2) how often each item came right after the newest one of the history, before the cut."""
    size = len(features.vocabulary)
    followed = transitions(features.past, size)
    items = duels.items()
    counted = np.asarray(followed[newest[duels.case][:, None].repeat(2, axis=1).ravel(), items.ravel()])
    return counted.reshape(items.shape) + HELD * np.isin(duels.case[:, None] * size + items, seen)


def transitions(past: Log, num_items: int) -> csr_array:
    """(N, N) how often one item came next after another of an earlier time: a first-order Markov chain, counted."""
    users, times, items = past.users, past.times, past.items
    step = (users[1:] == users[:-1]) & (times[1:] > times[:-1]) & (items[1:] != PAD) & (items[:-1] != PAD)
    pairs = items[:-1][step], items[1:][step]
    return csr_array((np.ones(step.sum()), pairs), shape=(num_items, num_items))


def stated_scores(features: Features, cases: EvaluationCases, duels: Duels) -> dict[str, np.ndarray]:
    """Column -> (D, 2) how much likelier each item is where the column reads as it does, counted before the cut."""
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
    """(D, 2) share of an item's events at which the column read as it does now; 0 where it reads as unknown."""
    size, values = len(features.vocabulary), int(max(learned.max(initial=0), asked.max(initial=0))) + 1
    together = np.bincount(learned * size + items, minlength=values * size)
    counts, pairs = np.bincount(items, minlength=size), duels.items()
    return (asked[:, None] != 0) * together[asked[:, None] * size + pairs] / (counts[pairs] + PRIOR)


@dataclass(frozen=True)
class Measured:
    """The duels of one log, and what each feature makes of them."""

    cases: EvaluationCases
    drawn: Duels
    read: dict[str, np.ndarray]  # (D, 2) scores of what is read from the log
    stated: dict[str, np.ndarray]  # (D, 2) scores by what the source states


def probe(at: Cut) -> Outcome:
    """With the times dealt anew, no feature tells the item that was taken from another case's."""
    settings, generator = at.settings.audit, np.random.default_rng([at.settings.seed, 1])
    log = at.features.log
    dealt = replace(at.features, log=replace(log, items=generator.permutation(log.items)))
    true, anew = measure(at, at.features), measure(at, dealt)
    level = settings.probe_alpha / max(1, len(anew.read))
    told = [name for name, scores in anew.read.items() if _p(*won(scores)) < level]
    named = [name for name, scores in true.stated.items() if bootstrap.interval(*won(scores))[0] > settings.too_good]
    findings = [_leak(at, name, true, won(anew.read[name])) for name in told]
    findings += [_too_good(at, name, true) for name in named]
    if not findings and not any(_p(*won(scores)) < level for scores in true.read.values()):
        findings = [Finding(
            "the probe sees nothing in the true times either", 0, [],
            "There are too few cases, or neither order nor trends matter here: there was little that could fall.",
            "Nothing to do; the other checks do not rest on it.", fails=False,
        )]  # fmt: skip
    rows = [_row(name, scores, anew.read.get(name)) for name, scores in (true.read | true.stated).items()]
    return Outcome(len(anew.drawn.case), "duels", findings, rows)


def measure(at: Cut, features: Features) -> Measured:
    """Duels of the `next_item` cases of some features, and the scores of both items of each."""
    every = validation.sample(validation.cases(features)["next_item"], at.settings.audit.probed_cases, at.settings.seed)
    cases = every.take(np.argsort(every.time, kind="stable"))
    newest, seen = read(features, cases)
    drawn = draw_duels(cases, seen, len(features.vocabulary), np.random.default_rng([at.settings.seed, 2]))
    scores = trend_scores(features, cases, drawn)
    scores["history"] = history_scores(features, newest, seen, drawn)
    return Measured(cases, drawn, scores, stated_scores(features, cases, drawn))


def won(scores: np.ndarray) -> tuple[int, int]:
    """Duels in which the item taken scores higher, and duels decided."""
    return int((scores[:, 0] > scores[:, 1]).sum()), int((scores[:, 0] != scores[:, 1]).sum())


def _p(won: int, decided: int) -> float:
    """How likely so many duels are won where the items are exchangeable."""
    return float(binomtest(won, decided, alternative="greater").pvalue) if decided else 1.0


def _share(scores: np.ndarray | None) -> str:
    if scores is None or not won(scores)[1]:
        return "-"
    (first, decided), (low, high) = won(scores), bootstrap.interval(*won(scores))
    return f"{first / decided:.3f} [{low:.3f}, {high:.3f}] of {decided:,}"


def _row(name: str, true: np.ndarray, anew: np.ndarray | None) -> Row:
    return {"feature": name, "won on the true times": _share(true), "won with times dealt anew": _share(anew)}


def _examples(at: Cut, found: Measured, scores: np.ndarray) -> list[Row]:
    """The duels of the true times that are won by most."""
    best = np.argsort(scores[:, 1] - scores[:, 0], kind="stable")[: at.settings.audit.examples]
    return [
        {
            USER: at.user(int(found.cases.user[found.drawn.case[row]])),
            "asked at": to_iso(found.cases.time[found.drawn.case[row]]),
            "item taken": at.item(int(found.drawn.own[row])),
            "its score": f"{scores[row, 0]:.4g}",
            "item of a later case": at.item(int(found.drawn.other[row])),
            "its score then": f"{scores[row, 1]:.4g}",
        }
        for row in best
    ]


def _leak(at: Cut, name: str, true: Measured, anew: tuple[int, int]) -> Finding:
    return Finding(
        f"the feature {name} tells the item taken even when the times are dealt anew: in {anew[0] / anew[1]:.0%} of duels",
        anew[0], _examples(at, true, true.read[name]),
        "Dealt anew, nothing of the past can tell it: the feature reads the very event that it is asked about.",
        "The check `time travel` shows on which rows; look at what makes the feature.",
    )  # fmt: skip


def _too_good(at: Cut, name: str, true: Measured) -> Finding:
    scores, bound = true.stated[name], at.settings.audit.too_good
    return Finding(
        f"{name} names the item taken in more than {bound:.0%} of the duels", won(scores)[0], _examples(at, true, scores),
        "A column this telling was most likely written from the event that it is said to precede.",
        "Ask where the source takes it from; leave it out of `featurize.context`, or of the side table, if it is known "
        "only afterwards. If it is truly known before, raise `audit.too_good`.",
    )  # fmt: skip
