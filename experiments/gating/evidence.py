"""Candidate, champion and best cheap baseline scored now, on the same cases, from their artifacts: no stored numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

import params
from experiments.evaluate import catalogue
from experiments.evaluation.cases import SEGMENT
from experiments.evaluation.catalogue import Catalogue
from experiments.evaluation.contrasts import WHOLE, contrasts, holm
from experiments.evaluation.scoring import Scored, score
from experiments.evaluation.segments import Segments
from experiments.gating.guard_rails import of_lists, rails
from experiments.gating.verdict import BASELINE, CHAMPION, level
from features.sequences import Cases
from features.store import Features
from serving.worker.recommender import Recommender

CANDIDATE = "candidate"
COLD, WARM = "cold", "warm"
Parts = Mapping[str, Mapping[str, np.ndarray]]  # target -> name -> (n,) bool


def window_start(features: Features, manifests: Mapping[str, dict]) -> int:
    """When judging may begin: after the cut, and after the last event that any of them was fitted on."""
    return max([features.cut_us, *(manifest["fit_until_us"] for manifest in manifests.values())])


def parts_of(features: Features, cases: Mapping[str, Cases], segments: Segments) -> dict[str, dict[str, np.ndarray]]:
    """Cold users, warm ones, and each segment of params.yaml, as of the moment of each case."""
    found = {}
    for target, every in cases.items():
        cold = every.end == features.log.offsets[every.user]
        column = segments.column(features, every)
        found[target] = {COLD: cold, WARM: ~cold} | {
            SEGMENT + rule["name"]: np.array([rule["name"] in names for names in column], dtype=bool)
            for rule in segments.rules
        }
    return found


def score_all(
    recommenders: Mapping[str, Recommender], features: Features, cases: Mapping[str, Cases],
    events: pd.DataFrame, users: pd.DataFrame, size: int,
) -> dict[str, dict[str, Scored]]:  # fmt: skip
    """Role -> target -> what it reaches; an artifact that plays two roles is asked once."""
    by_artifact: dict[str, dict[str, Scored]] = {}
    for one in recommenders.values():
        if one.artifact.digest not in by_artifact:
            by_artifact[one.artifact.digest] = score(one, features, cases, events, users, size)
    return {role: by_artifact[one.artifact.digest] for role, one in recommenders.items()}


def weigh(
    scores: Mapping[str, Mapping[str, Scored]], cases: Mapping[str, Cases], parts: Parts, features: Features,
    policy: params.Gate, seed: int, looks: int,
) -> dict[str, Any]:  # fmt: skip
    """What the verdict rests on, as plain data.

    Returns:
        {"looks", "comparisons": {"champion" | "baseline": {target: contrast} or None where the baseline is the champion},
        "segments": rows of {"target", "segment", "tested", "p_holm", ...contrast}, "guard_rails": rows}.
    """
    against = {role: _compare(scores, role, cases, parts, policy, seed, looks) for role in (CHAMPION, BASELINE)
               if role in scores}  # fmt: skip
    lists = {role: of[policy.primary].lists for role, of in scores.items() if policy.primary in of}
    same = BASELINE in scores and scores[BASELINE] is scores[CHAMPION]
    whole = {role: {target: found[WHOLE] for target, found in of.items()} for role, of in against.items()}
    return {
        "looks": looks,
        "comparisons": whole | {BASELINE: None if same else whole.get(BASELINE)},
        "segments": segment_rows(against[CHAMPION], policy),
        "guard_rails": rails_of(lists, features, policy) if lists else [],
    }


def rails_of(lists: Mapping[str, np.ndarray], features: Features, policy: params.Gate) -> list[dict[str, Any]]:
    """The guard rails of the candidate's (n, 10) lists, against the champion's."""
    shown = Catalogue.of(catalogue(features))
    ours, theirs = (of_lists(lists[role], shown) for role in (CANDIDATE, CHAMPION))
    return rails(ours, theirs, policy.guard_rails)


def segment_rows(by_target: Mapping[str, Mapping[str, dict]], policy: params.Gate) -> list[dict[str, Any]]:
    """One row a target and segment: cold users and every segment with enough users are tested, together (Holm)."""
    rows = [
        {"target": target, "segment": name.removeprefix(SEGMENT), **found}
        for target, parts in by_target.items()
        for name, found in parts.items()
        if name != WHOLE
    ]
    for row in rows:
        row["tested"] = row["segment"] == COLD or row["users"] >= policy.segment_min_users
    tested = [row for row in rows if row["tested"]]
    for row, adjusted in zip(tested, holm([row["p_loss"] for row in tested]), strict=True):
        row["p_holm"] = adjusted
    return rows


def _compare(scores, role: str, cases: Mapping[str, Cases], parts: Parts, policy: params.Gate, seed: int, looks: int):
    return {
        target: contrasts(
            scores[CANDIDATE][target].ndcg, scores[role][target].ndcg, every.user,
            parts[target] if role == CHAMPION else {}, policy.segment_margin, seed, policy.resamples, level(policy, looks),
        )
        for target, every in cases.items()
    }  # fmt: skip
