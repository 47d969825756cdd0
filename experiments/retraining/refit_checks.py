"""What can be asked of a refit that no later event can judge: that it is its parent's child, sound, and lists as it does.

The parent's gate report is what it serves under, so nothing here says that it is better.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.instants import to_iso
from data.products import INGESTED, SPLIT
from experiments.gating import admission, evidence, judgement, verdict
from experiments.gating.evidence import CANDIDATE
from experiments.gating.judgement import Question
from experiments.gating.verdict import CHAMPION, Decision
from experiments.retraining import agreement, heritage
from params import Retrain
from serving.worker import segment_lists
from serving.worker.recommender import Recommender
from training.models import artifact


def judge(asked: Question, under: dict[str, str]) -> dict[str, Any]:
    """The report of a refit.

    Args:
        asked: with the refit for candidate, its parent for champion, and the features of all events.
        under: the parent's version and artifact, and the hash of its gate report.
    """
    found: dict[str, Any] = {"leakage_checks": len(asked.audit["checks"])}
    with judgement.artifacts(asked) as folders:
        manifests = {role: artifact.verify(folder) for role, folder in folders.items()}
        decided = _decide(asked, folders, manifests, found)
    about = {role: judgement.about(manifest) for role, manifest in manifests.items()}
    return judgement.report(asked, decided, found) | {"under": under, "artifacts": about}


def _decide(
    asked: Question, folders: Mapping[str, Path], manifests: Mapping[str, dict], found: dict[str, Any]
) -> Decision:
    """What is found goes into `found`, the cheap first; the first fault ends it."""
    policy, bar = asked.settings.gate, asked.settings.retrain
    if decided := unlike(folders, manifests) or admission.poor_index(manifests[CANDIDATE], policy):
        return decided
    recommenders = {role: Recommender.load(folder) for role, folder in folders.items()}
    parent, child = recommenders[CHAMPION], recommenders[CANDIDATE]
    if decided := admission.irreproducible(parent, asked.champion.version) or admission.altered(child):
        return decided
    found |= {"golden_answers": len(parent.golden()), "budgets": judgement.costs(folders, recommenders, policy)}
    if decided := verdict.over_budget(found["budgets"]):
        return decided
    found |= _of_lists(asked, recommenders)
    return verdict.narrowed(found["guard_rails"]) or estranged(found["agreement"], bar) or _passed(asked, found)


def unlike(folders: Mapping[str, Path], manifests: Mapping[str, dict]) -> Decision | None:
    """A refit that is fitted by another recipe, code or data set version than its parent is none."""
    configs = {role: json.loads((folder / "config.json").read_text()) for role, folder in folders.items()}
    rules = {role: json.loads((folder / segment_lists.FILE).read_text()) for role, folder in folders.items()}
    lines = [
        *heritage.departures(manifests[CHAMPION], manifests[CANDIDATE], heritage.OF_MANIFEST),
        *heritage.departures(configs[CHAMPION], configs[CANDIDATE], heritage.OF_CONFIG),
        *heritage.departures(rules[CHAMPION], rules[CANDIDATE], {"rules": "segment rules"}),
    ]
    if not lines:
        return None
    return Decision(verdict.REJECT, f"it is no refit of its parent: {'; '.join(lines)}", heritage.ADVICE)


def _of_lists(asked: Question, recommenders: Mapping[str, Recommender]) -> dict[str, Any]:
    """Guard rails, and how far the two agree, over the newest requests."""
    settings, features = asked.settings, asked.features
    cases = agreement.newest_cases(features, settings.retrain.refit_requests)
    events, users = pd.read_parquet(SPLIT / "events.parquet"), pd.read_parquet(INGESTED / "users.parquet")
    lists = agreement.lists_of(recommenders, features, cases, events, users, settings.train.batch_cases)
    shares = agreement.overlap(lists[CHAMPION], lists[CANDIDATE])
    shares = shares[~np.isnan(shares)]
    told = {
        "requests": len(shares),
        "users": len(np.unique(cases.user)),
        "since": to_iso(int(cases.time.min())) if len(cases) else None,
        "overlap": float(shares.mean()) if len(shares) else 0.0,
        "bar": settings.retrain.refit_overlap,
    }
    return {"guard_rails": evidence.rails_of(lists, features, settings.gate), "agreement": told}


def estranged(told: Mapping[str, Any], policy: Retrain) -> Decision | None:
    """A refit whose lists have too little in common with its parent's: what was judged is not what would serve."""
    if told["requests"] and told["overlap"] >= policy.refit_overlap:
        return None
    reason = (
        f"its lists share {told['overlap']:.3f} of its parent's 10 items on {told['requests']:,} recent requests; at least "
        f"{policy.refit_overlap:g} (retrain.refit_overlap)"
    )
    return Decision(
        verdict.REJECT, reason, "keep the parent, which serves; see what the newest events hold that the older do not"
    )


def _passed(asked: Question, found: Mapping[str, Any]) -> Decision:
    told = found["agreement"]
    reason = (
        f"refit of version {asked.champion.version}, which the gate promoted, on all events until "
        f"{to_iso(asked.features.cut_us)}; it lists {told['overlap']:.0%} of its parent's items on {told['requests']:,} "
        "recent requests"
    )
    return Decision(verdict.PROMOTE, reason, verdict.DEPLOY)
