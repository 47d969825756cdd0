"""Check what must hold before the gate looks at the holdout, so that a fault does not spend a look.

Each check returns None, or the decision that ends the judgment.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from config import params
from data.times import to_iso
from experiments.gating.verdict import HOLD, INSUFFICIENT_DATA, REJECT, GateDecision
from experiments.leakage import report as leakage_report
from experiments.lineage import skew_report
from serving.worker.recommender import Recommender
from serving.worker.response import find_difference
from training import provenance
from training.provenance import CHANGES_SUFFIX, UNKNOWN, UnknownCommitError
from training.threads import one_thread

ALLOW_OPTION = "--allow-uncommitted"
ALLOW_VARIABLE = "TIDEGATE_ALLOW_UNCOMMITTED"  # the same for commands that run the gate as one of their steps


class CodeState(NamedTuple):
    """The commit of the code that judges.

    Attributes:
        changed: the code, settings or locks that differ from the commit, `unknown` if git cannot say so of its own
            repository; None if nothing differs, or outside git.
        unknown: why the commit cannot be known; None if it is known.
    """

    commit: str
    changed: str | None
    unknown: str | None


def code_state() -> CodeState:
    """The state of this code: a checkout, or a workspace, which is a copy of one."""
    try:
        commit, names = provenance.checkout()
    except UnknownCommitError as error:
        changed = UNKNOWN if provenance.is_repository() else None
        return CodeState(UNKNOWN, changed, f"{error}, so the commit is unknown")
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return CodeState(
        f"{commit}{CHANGES_SUFFIX}" if names else commit, ", ".join(names[:3]) + more if names else None, None
    )


def add_override_option(parser: argparse.ArgumentParser) -> None:
    """Add --allow-uncommitted, which the environment can set too."""
    about = (
        f"judge although code, settings or locks have uncommitted changes; the report shows it (or {ALLOW_VARIABLE}=1)"
    )
    allowed = bool(os.environ.get(ALLOW_VARIABLE))
    parser.add_argument(ALLOW_OPTION, dest="override", action="store_true", default=allowed, help=about)


def uncommitted_code(code: CodeState) -> GateDecision | None:
    """Refuse to judge with uncommitted code: nobody could reproduce the decision."""
    if code.changed is None:
        return None
    reason = f"refused: {code.unknown or f'the code has uncommitted changes: {code.changed}'}"
    if code.unknown:
        return GateDecision(HOLD, reason, f"make git work here; or use {ALLOW_OPTION}, which the report shows")
    advice = f"commit, run `dvc repro`, and run the gate again; or use {ALLOW_OPTION}, which the report shows"
    return GateDecision(HOLD, reason, advice)


def rolled_back(problem: str | None) -> GateDecision | None:
    """Refuse to judge an artifact that a rollback removed (`serving.deployment.promotion.bar_problem`)."""
    if problem is None:
        return None
    advice = "ingest newer events and run the gate again, or fit another model"
    return GateDecision(HOLD, f"refused: the candidate was {problem}", advice)


def failed_audit(audit: dict) -> GateDecision | None:
    """Refuse to judge on data that leaks: its numbers do not predict live results."""
    if audit["clean"]:
        return None
    first, *others = leakage_report.failures(audit)
    more = f" (and {len(others)} more)" if others else ""
    advice = f"fix what {leakage_report.PAGE} shows, run `dvc repro`, and run the gate again"
    return GateDecision(HOLD, f"refused: the leakage audit fails: {first}{more}", advice)


def skewed_serving(skew: Mapping[str, Any] | None, policy: params.Gate) -> GateDecision | None:
    """Refuse to judge while serving reads other features than the dataset holds.

    Nothing is refused without a report of `experiments.skew`, or if it compared nothing.
    """
    groups = (skew or {}).get("groups", {})
    low = {name: row for name, row in groups.items() if row["compared"] and row["high"] < policy.min_match_rate}
    if not low:
        return None
    rates = "; ".join(f"{name} {skew_report.match_rate(row)}" for name, row in low.items())
    reason = (
        f"refused: serving reads other features than the dataset holds: {rates}; gate.min_match_rate is "
        f"{policy.min_match_rate:g}"
    )
    advice = (
        f"fix what {skew_report.PAGE} shows, measure newer answers (`python -m experiments.skew --since TIME`), and run "
        "the gate again"
    )
    return GateDecision(HOLD, reason, advice)


def no_unseen_events(manifests: Mapping[str, dict], until_us: int) -> GateDecision | None:
    """Stop where no event is left that every artifact has not seen; the known events end at `until_us`."""
    for role, manifest in manifests.items():
        fit_until = manifest.get("fit_until_us")
        if not isinstance(fit_until, int):
            reason = f"refused: the {role}'s manifest lacks fit_until_us, so no events are known to be unseen"
            return GateDecision(HOLD, reason, f"export the {role} again")
        if fit_until >= until_us:
            reason = (
                f"refused: the {role} was fitted on all known events, until {to_iso(fit_until)}; the last known event "
                f"is at {to_iso(until_us)}"
            )
            advice = "ingest newer events, or cut earlier (split.test_start) and fit again"
            return GateDecision(INSUFFICIENT_DATA, reason, advice)
    return None


def poor_index(manifest: dict, policy: params.Gate) -> GateDecision | None:
    """Reject a candidate whose index finds too few of the exact best items."""
    index = manifest.get("index")
    recall = (index or {}).get("recall@20", 0.0)
    if index is None or recall >= policy.min_index_recall:
        return None
    reason = (
        f"its index finds {recall:.4f} of the exact best 20, below gate.min_index_recall = {policy.min_index_recall}"
    )
    advice = "export with serve.index.kind: exact or a higher serve.index.recall, and run the gate again"
    return GateDecision(REJECT, reason, advice)


def changed_answers(champion: Recommender, candidate: Recommender, champion_version: str) -> GateDecision | None:
    """Compare the golden answers of both artifacts with those of their export.

    A champion that answers differently on this host is not the one that serves, so nothing can be compared with it. A
    candidate that answers differently would not pass the deployment.
    """
    if fault := golden_difference(champion):
        reason = f"refused: the champion, version {champion_version}, does not answer as at export: {fault}"
        advice = (
            "find what changed (model code, locks, processor); run `make rollback` if the champion itself is broken"
        )
        return GateDecision(HOLD, reason, advice)
    if fault := golden_difference(candidate):
        reason = f"the candidate does not answer as at export: {fault}"
        return GateDecision(REJECT, reason, "export it again with the code that will serve, and run the gate again")
    return None


def golden_difference(recommender: Recommender) -> str | None:
    """The first difference between an artifact's present answers and its golden answers; None if there is none."""
    golden = recommender.golden_cases()
    if not golden:
        return "it holds no golden answers"
    with one_thread():
        answers = recommender.recommend([entry["request"] for entry in golden])
    for number, (entry, answer) in enumerate(zip(golden, answers, strict=True)):
        if not isinstance(answer, dict):
            return f"golden request {number} is refused: {answer}"
        if found := find_difference(entry["answer"], answer):
            return f"golden request {number}: {found}"
    return None
