"""Every check of the audit by name, and a run of them."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict

from experiments.leakage import event_order, fitted_statistics, future_features, target_probe
from experiments.leakage.cut import Cut, Outcome

Check = Callable[[Cut], Outcome]  # the first line of its docstring is what it holds the data to
OF_SPLIT: dict[str, Check] = {
    "time order: total order": event_order.total_order,
    "time order: duplicates": event_order.duplicates,
    "time order: parts": event_order.parts,
}
OF_CUT: dict[str, Check] = {
    "time order: one split": event_order.one_split,
    "time order: log": event_order.log_is_the_split,
    "time order: training": event_order.training,
    "fitted on the past: vocabulary": fitted_statistics.vocabulary,
    "fitted on the past: encoders": fitted_statistics.encoders,
    "fitted on the past: content": fitted_statistics.content,
    "fitted on the past: trends": fitted_statistics.trends,
    "first appearance: vocabulary": future_features.vocabulary,
    "first appearance: trends": future_features.trends,
    "first appearance: rankings": future_features.rankings,
    "ties: evaluation": event_order.evaluation,
    "ties: encoded": event_order.encoded,
    "ties: questions of training": event_order.questions,
    "ties: batches of training": fitted_statistics.fed,
    "sessions": event_order.astride,
    "time travel": future_features.per_feature,
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
