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

from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import binomtest

from data.columns import USER
from data.instants import to_iso
from experiments.evaluation import proportion
from experiments.leakage import duels
from experiments.leakage.cut import Cut
from experiments.leakage.duels import Duels
from experiments.leakage.finding import Finding, Outcome, Row
from features.sequences import Cases
from features.store import Features
from training import validate


@dataclass(frozen=True)
class Measured:
    """The duels of one log, and what each feature makes of them."""

    cases: Cases
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
    named = [name for name, scores in true.stated.items() if proportion.interval(*won(scores))[0] > settings.too_good]
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
    """Duels of the `next` cases of some features, and the scores of both items of each."""
    every = validate.sample(validate.cases(features)["next"], at.settings.audit.probed_cases, at.settings.seed)
    cases = every.take(np.argsort(every.time, kind="stable"))
    newest, seen = duels.read(features, cases)
    drawn = duels.drawn(cases, seen, len(features.vocabulary), np.random.default_rng([at.settings.seed, 2]))
    scores = duels.trend_scores(features, cases, drawn)
    scores["history"] = duels.history_scores(features, newest, seen, drawn)
    return Measured(cases, drawn, scores, duels.stated_scores(features, cases, drawn))


def won(scores: np.ndarray) -> tuple[int, int]:
    """Duels in which the item taken scores higher, and duels decided."""
    return int((scores[:, 0] > scores[:, 1]).sum()), int((scores[:, 0] != scores[:, 1]).sum())


def _p(won: int, decided: int) -> float:
    """How likely so many duels are won where the items are exchangeable."""
    return float(binomtest(won, decided, alternative="greater").pvalue) if decided else 1.0


def _share(scores: np.ndarray | None) -> str:
    if scores is None or not won(scores)[1]:
        return "-"
    (first, decided), (low, high) = won(scores), proportion.interval(*won(scores))
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
