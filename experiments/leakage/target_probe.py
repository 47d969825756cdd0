"""Target probe: with the times dealt anew, nothing that a model reads may tell which item was taken.

Each `next` case is set against another that is asked later. A feature scores the items of both as of the earlier
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

from dataclasses import replace

import numpy as np
from scipy.stats import binomtest

from experiments.leakage import duels
from experiments.leakage.cut import Cut
from experiments.leakage.finding import Finding, Outcome, Row
from features.store import Features
from training import validate


def probe(at: Cut) -> Outcome:
    """With the times dealt anew, no feature tells the item that was taken from another case's."""
    settings, generator = at.settings.audit, np.random.default_rng([at.settings.seed, 1])
    true, stated = measure(at, at.features)
    log = at.features.log
    dealt = replace(at.features, log=replace(log, items=generator.permutation(log.items)))
    shuffled, _ = measure(at, dealt)
    level = settings.probe_alpha / max(1, len(shuffled))
    told = [name for name, (won, decided) in shuffled.items() if _p(won, decided) < level]
    named = [name for name, counts in stated.items() if _interval(*counts)[0] > settings.too_good]
    findings = [_leak(name, true[name], shuffled[name]) for name in told]
    findings += [_too_good(name, stated[name], settings.too_good) for name in named]
    if not any(_p(won, decided) < level for won, decided in true.values()) and not findings:
        findings.append(Finding(
            "the probe sees nothing in the true times either", 0, [],
            "There are too few cases, or neither order nor trends matter here: there was little that could fall.",
            "Nothing to do; the other checks do not rest on it.", fails=False,
        ))  # fmt: skip
    rows = [_row(name, counts, shuffled[name]) for name, counts in true.items()]
    rows += [_row(name, counts, None) for name, counts in stated.items()]
    return Outcome(max((decided for _, decided in shuffled.values()), default=0), "duels", findings, rows)


def measure(at: Cut, features: Features) -> tuple[dict[str, tuple[int, int]], dict[str, tuple[int, int]]]:
    """Feature -> (duels won, duels decided), of what is read from the log and of what the source states."""
    every = validate.sample(validate.cases(features)["next"], at.settings.audit.probed_cases, at.settings.seed)
    cases = every.take(np.argsort(every.time, kind="stable"))
    newest, seen = duels.read(features, cases)
    drawn = duels.drawn(cases, seen, len(features.vocabulary), np.random.default_rng([at.settings.seed, 2]))
    scores = duels.trend_scores(features, cases, drawn)
    scores["history"] = duels.history_scores(features, newest, seen, drawn)
    return _won(scores), _won(duels.stated_scores(features, cases, drawn))


def _won(scores: dict[str, np.ndarray]) -> dict[str, tuple[int, int]]:
    return {name: (int((of[:, 0] > of[:, 1]).sum()), int((of[:, 0] != of[:, 1]).sum())) for name, of in scores.items()}


def _p(won: int, decided: int) -> float:
    """How likely so many duels are won where the items are exchangeable."""
    return float(binomtest(won, decided, alternative="greater").pvalue) if decided else 1.0


def _interval(won: int, decided: int) -> tuple[float, float]:
    """95% interval of the share won (Wilson 1927)."""
    if not decided:
        return 0.0, 1.0
    found = binomtest(won, decided).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def _share(counts: tuple[int, int] | None) -> str:
    if counts is None or not counts[1]:
        return "-"
    low, high = _interval(*counts)
    return f"{counts[0] / counts[1]:.3f} [{low:.3f}, {high:.3f}] of {counts[1]:,}"


def _row(name: str, true: tuple[int, int], shuffled: tuple[int, int] | None) -> Row:
    return {"feature": name, "won on the true times": _share(true), "won with times dealt anew": _share(shuffled)}


def _leak(name: str, true: tuple[int, int], shuffled: tuple[int, int]) -> Finding:
    return Finding(
        f"the feature {name} tells the item taken even when the times are dealt anew", shuffled[0], [_row(name, true, shuffled)],
        "Dealt anew, nothing of the past can tell it: the feature reads the very event that it is asked about.",
        "The check `time travel` shows on which rows; look at what makes the feature.",
    )  # fmt: skip


def _too_good(name: str, counts: tuple[int, int], bound: float) -> Finding:
    return Finding(
        f"{name} names the item taken in more than {bound:.0%} of the duels", counts[0], [_row(name, counts, None)],
        "A column this telling was most likely written from the event that it is said to precede.",
        "Ask where the source takes it from; leave it out of `featurize.context`, or of the side table, if it is known "
        "only afterwards. If it is truly known before, raise `audit.too_good`.",
    )  # fmt: skip
