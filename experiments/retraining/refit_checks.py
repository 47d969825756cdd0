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

from config import params
from config.params import Retrain
from config.paths import INGESTED, SPLIT
from data.times import to_iso
from experiments.evaluation.scoring import score
from experiments.gating import evidence, judgment, preconditions, verdict
from experiments.gating.evidence import CANDIDATE
from experiments.gating.judgment import Question
from experiments.gating.verdict import CHAMPION, Decision
from features.feature_files import Features
from features.sequences import EvaluationCases, next_item_cases
from serving.worker import fallback
from serving.worker.recommender import Recommender
from training import provenance
from training.models import artifact


def newest_cases(features: Features, count: int) -> EvaluationCases:
    """Before each of the newest events, whatever cut they follow: the live page as it was asked for."""
    every = next_item_cases(features.log, 0, features.description["until_us"])
    newest = np.argsort(every.time, kind="stable")[-count:]
    return every.take(np.sort(newest))


def lists_of(
    recommenders: Mapping[str, Recommender], features: Features, cases: EvaluationCases, events: pd.DataFrame, users: pd.DataFrame,
    size: int,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Role -> (n, 10) rows of the present catalogue, -1 where a list is shorter."""
    asked = {"next_item": cases}
    return {
        role: score(one, features, asked, events, users, size)["next_item"].lists for role, one in recommenders.items()
    }


def overlap(theirs: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """(n,) share of each of their (n, 10) lists that ours holds, too; NaN where theirs is empty."""
    shown = theirs >= 0
    held = (theirs[:, :, None] == ours[:, None, :]).any(axis=2) & shown
    sizes = shown.sum(axis=1)
    return np.where(sizes > 0, held.sum(axis=1) / np.maximum(sizes, 1), np.nan)


OF_MANIFEST = {
    "dataset_hash": "data set version",
    "split_id": "split",
    "commit": "code commit",
    "lock_hash": "lock",
    "label": "label",
    "params": "recipe",
    "seed": "seed",
}
OF_CONFIG = {"serve": "presentation (serve)", "repeats": "rule for repeats", "refresh_minutes": "trends refresh"}
UNKNOWN = (None, "unknown")  # a commit is unknown outside git
ADVICE = "check out the parent's commit with its params.yaml and data, or retrain: a new parent can be refitted"
SHORT = 60


def departures(parent: Mapping[str, Any], child: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """How one departs from the other, a line each; what a parent does not state is a departure, too.

    Args:
        names: key -> what it is, in words.
    """
    return [
        f"its {told} is {_short(child.get(name))}, its parent's {_short(parent.get(name))}"
        for name, told in names.items()
        if parent.get(name) in UNKNOWN or child.get(name) != parent.get(name)
    ]


def at_hand(split: Mapping[str, Any], settings: params.Params) -> dict[str, Any]:
    """What a fit here and now would state; `split` is the split's manifest."""
    return {
        "dataset_hash": split["dataset_hash"],
        "split_id": split["split_id"],
        "commit": provenance.commit(),
        "lock_hash": provenance.lock_hash(),
        "serve": settings.serve.model_dump(mode="json"),
        "repeats": settings.ingest.repeats,
        "refresh_minutes": settings.featurize.trends.refresh_minutes,
    }


def _short(value: object) -> str:
    text = "not known" if value in UNKNOWN else str(value)
    return text if len(text) <= SHORT else f"{text[:SHORT]}..."


def judge(asked: Question, under: dict[str, str]) -> dict[str, Any]:
    """The report of a refit.

    Args:
        asked: with the refit for candidate, its parent for champion, and the features of all events.
        under: the parent's version and artifact, and the hash of its gate report.
    """
    found: dict[str, Any] = {"leakage_checks": len(asked.audit["checks"])}
    with judgment.artifacts(asked) as folders:
        manifests = {role: artifact.verify(folder) for role, folder in folders.items()}
        decided = _decide(asked, folders, manifests, found)
    about = {role: judgment.about(manifest) for role, manifest in manifests.items()}
    return judgment.report(asked, decided, found) | {"under": under, "artifacts": about}


def _decide(
    asked: Question, folders: Mapping[str, Path], manifests: Mapping[str, dict], found: dict[str, Any]
) -> Decision:
    """What is found goes into `found`, the cheap first; the first fault ends it."""
    policy, bar = asked.settings.gate, asked.settings.retrain
    if decided := unlike(folders, manifests) or preconditions.poor_index(manifests[CANDIDATE], policy):
        return decided
    recommenders = {role: Recommender.load(folder) for role, folder in folders.items()}
    parent, child = recommenders[CHAMPION], recommenders[CANDIDATE]
    if decided := preconditions.irreproducible(parent, asked.champion.version) or preconditions.altered(child):
        return decided
    found |= {"golden_answers": len(parent.golden_cases()), "budgets": judgment.costs(folders, recommenders, policy)}
    if decided := verdict.over_budget(found["budgets"]):
        return decided
    found |= _of_lists(asked, recommenders)
    return verdict.narrowed(found["guard_rails"]) or estranged(found["agreement"], bar) or _passed(asked, found)


def unlike(folders: Mapping[str, Path], manifests: Mapping[str, dict]) -> Decision | None:
    """A refit that is fitted by another recipe, code or data set version than its parent is none."""
    configs = {role: json.loads((folder / "config.json").read_text()) for role, folder in folders.items()}
    rules = {role: json.loads((folder / fallback.SEGMENTS_FILE).read_text()) for role, folder in folders.items()}
    lines = [
        *departures(manifests[CHAMPION], manifests[CANDIDATE], OF_MANIFEST),
        *departures(configs[CHAMPION], configs[CANDIDATE], OF_CONFIG),
        *departures(rules[CHAMPION], rules[CANDIDATE], {"rules": "segment rules"}),
    ]
    if not lines:
        return None
    return Decision(verdict.REJECT, f"it is no refit of its parent: {'; '.join(lines)}", ADVICE)


def _of_lists(asked: Question, recommenders: Mapping[str, Recommender]) -> dict[str, Any]:
    """Guard rails, and how far the two agree, over the newest requests."""
    settings, features = asked.settings, asked.features
    cases = newest_cases(features, settings.retrain.refit_requests)
    events, users = pd.read_parquet(SPLIT / "events.parquet"), pd.read_parquet(INGESTED / "users.parquet")
    lists = lists_of(recommenders, features, cases, events, users, settings.train.eval_batch_size)
    shares = overlap(lists[CHAMPION], lists[CANDIDATE])
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
