"""What must hold before anybody looks at a window: then a fault spends no look.

A refusal says that the two cannot be judged here and now; a fault says what is wrong with the candidate itself.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from typing import Any, NamedTuple

from config import params
from config.paths import ROOT
from data.times import to_iso
from experiments.audit import failures
from experiments.gating import verdict
from experiments.gating.verdict import Decision
from experiments.serving_skew import report as skew_record
from serving.worker.recommender import Recommender
from serving.worker.response import find_difference
from training import provenance
from training.threads import one_thread

CODE = ("*.py", "requirements*.lock", "dvc.yaml", "pyproject.toml")  # settings stand in the reports themselves
CHANGES = "+changes"


class Checkout(NamedTuple):
    """The commit, and in words what is wrong with it.

    Attributes:
        changed: which tracked code or locks differ from it; None where none does.
        unknown: why that cannot be known; None where it is.
    """

    commit: str
    changed: str | None
    unknown: str | None


def state() -> Checkout:
    """Of this checkout. A workspace, which is a copy, believes what the verb that made it stated."""
    commit = provenance.commit()
    if commit == "unknown":
        return Checkout(commit, None, "git is not here, or this is no checkout: nobody can say which code this is")
    if "TIDEGATE_COMMIT" in os.environ:
        changed = "tracked code differs from the commit (git status names it)" if commit.endswith(CHANGES) else None
        return Checkout(commit, changed, None)
    try:
        _git("ls-files", "--error-unmatch", "config/params.py")
    except subprocess.CalledProcessError:
        return Checkout("unknown", None, "git does not track this copy of the code")
    names = [line[3:] for line in _git("status", "--porcelain", "--untracked-files=no", "--", *CODE).splitlines()]
    return Checkout(commit, _few(names) if names else None, None)


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


ALLOW = "--allow-uncommitted"


def uncommitted(code: Checkout) -> Decision | None:
    """Changed code may not decide: what it did cannot be found again."""
    if code.changed is None:
        return None
    return Decision(
        verdict.HOLD,
        f"refused: the code is not committed: {code.changed}",
        f"commit, fit what the change concerns anew (`dvc repro`), and ask again; or {ALLOW}, which the report shows",
    )


def leaking(audit: dict) -> Decision | None:
    """Numbers of data that leak say nothing of the future."""
    if audit["clean"]:
        return None
    first, *others = failures(audit)
    more = f" (and {len(others)} more)" if others else ""
    advice = "mend what out/experiments/audit.html shows, `dvc repro`, and ask again"
    return Decision(verdict.HOLD, f"refused: the leakage audit fails: {first}{more}", advice)


def skewed(measured: Mapping[str, Any] | None, policy: params.Gate) -> Decision | None:
    """What was fitted and judged on other features than are served says little of what will be served.

    Args:
        measured: the last record of `experiments.skew`; None, or a group of which nothing was compared, refuses nobody.
    """
    groups = (measured or {}).get("groups", {}).items()
    low = [name for name, of in groups if of["compared"] and of["high"] < policy.min_match_rate]
    if measured is None or not low:
        return None
    told = "; ".join(f"{name} {skew_record.rate(measured['groups'][name])}" for name in low)
    reason = f"refused: what is served does not read what the data set tells: {told}; gate.min_match_rate is"
    since = "measure what was answered since (`python -m experiments.skew --since TIME`)"
    advice = f"mend what out/experiments/skew.html shows, {since}, and ask again"
    return Decision(verdict.HOLD, f"{reason} {policy.min_match_rate:g}", advice)


def overlap(manifests: Mapping[str, dict], until_us: int) -> Decision | None:
    """An artifact must say until when it was fitted, and events must be left after it.

    Args:
        manifests: role -> manifest.
        until_us: where the known events end.
    """
    for role, manifest in manifests.items():
        fitted = manifest.get("fit_until_us")
        if not isinstance(fitted, int):
            reason = f"refused: the {role}'s manifest does not state fit_until_us, so no window is known to be unseen"
            return Decision(verdict.HOLD, reason, f"export the {role} again")
        if fitted >= until_us:
            reason = (
                f"refused: the whole window overlaps what the {role} was fitted on: events until {to_iso(fitted)}; "
                f"the last known event is of {to_iso(until_us)}"
            )
            advice = "ingest newer events, or cut earlier (split.test_start) and fit again"
            return Decision(verdict.INSUFFICIENT_DATA, reason, advice)
    return None


def golden_fault(recommender: Recommender) -> str | None:
    """How the artifact's answers here depart from those recorded at export; None if they do not."""
    golden = recommender.golden_cases()
    if not golden:
        return "it holds no golden answers"
    with one_thread():
        answers = recommender.recommend([entry["request"] for entry in golden])
    for number, (entry, answer) in enumerate(zip(golden, answers, strict=True)):
        if not isinstance(answer, dict):
            return f"golden request {number} is refused: {answer}"
        if told := find_difference(entry["answer"], answer):
            return f"golden request {number}: {told}"
    return None


def irreproducible(champion: Recommender, version: str) -> Decision | None:
    """A champion that answers otherwise than it did is not the one that serves: nothing can be set against it here."""
    fault = golden_fault(champion)
    if fault is None:
        return None
    return Decision(
        verdict.HOLD,
        f"refused: the champion, version {version}, does not answer as at export: {fault}",
        "find what changed (code of the model, locks, processor); `make rollback` if the champion itself is broken",
    )


def poor_index(manifest: dict, policy: params.Gate) -> Decision | None:
    """A candidate whose index finds too little of what it would answer."""
    fault = verdict.index_fault(manifest, policy)
    return Decision(verdict.REJECT, fault, "export again as the reason says, and ask again") if fault else None


def altered(candidate: Recommender) -> Decision | None:
    """A candidate that does not answer as at export would not be let live."""
    fault = golden_fault(candidate)
    if fault is None:
        return None
    reason = f"the candidate does not answer as at export: {fault}"
    return Decision(verdict.REJECT, reason, "export it again with the code that is to serve, and ask again")
