"""Every check of the audit by name, and a run of them."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict

from experiments.leakage import (
    first_appearance,
    fitted,
    sessions,
    target_probe,
    ties,
    time_order,
    time_travel,
    training_batches,
)
from experiments.leakage.cut import Cut
from experiments.leakage.finding import Outcome

Check = Callable[[Cut], Outcome]  # the first line of its docstring is what it holds the data to
OF_SPLIT: dict[str, Check] = {
    "time order: total order": time_order.total_order,
    "time order: duplicates": time_order.duplicates,
    "time order: parts": time_order.parts,
}
OF_CUT: dict[str, Check] = {
    "time order: one split": time_order.one_split,
    "time order: log": time_order.log_is_the_split,
    "time order: training": time_order.training,
    "fitted on the past: vocabulary": fitted.vocabulary,
    "fitted on the past: encoders": fitted.encoders,
    "fitted on the past: content": fitted.content,
    "fitted on the past: trends": fitted.trends,
    "first appearance: vocabulary": first_appearance.vocabulary,
    "first appearance: trends": first_appearance.trends,
    "first appearance: rankings": first_appearance.rankings,
    "ties: evaluation": ties.evaluation,
    "ties: encoded": ties.encoded,
    "ties: questions of training": ties.questions,
    "ties: batches of training": training_batches.fed,
    "sessions": sessions.astride,
    "time travel": time_travel.per_feature,
    "target probe": target_probe.probe,
}
NEED_LATER_EVENTS = {
    "first appearance: rankings",
    "ties: evaluation",
    "ties: encoded",
    "sessions",
    "time travel",
    "target probe",
}
OF_FULL = {name: check for name, check in OF_CUT.items() if name not in NEED_LATER_EVENTS}  # of a cut after all events


def run(at: Cut, checks: dict[str, Check]) -> Iterator[dict]:
    """What each check says of one cut."""
    for name, check in checks.items():
        begun = time.perf_counter()
        outcome = check(at)
        yield {
            "check": name,
            "cut": "both" if checks is OF_SPLIT else at.name,
            "promise": (inspect.getdoc(check) or "").partition("\n")[0],
            "failed": any(finding.fails for finding in outcome.findings),
            "seconds": round(time.perf_counter() - begun, 2),
            **asdict(outcome),
        }
