"""Candidate, champion and best cheap baseline scored now, on the same cases, from their artifacts: no stored numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from config import params
from config.gate_params import Budgets, GuardRails
from data.times import to_iso
from experiments.evaluate import catalogue
from experiments.evaluation.cases import SEGMENT, Catalog
from experiments.evaluation.comparison import WHOLE, contrasts, holm
from experiments.evaluation.list_metrics import counts, coverage, diversity, list_means
from experiments.evaluation.measure import number
from experiments.evaluation.scoring import HEADLINE, ScoredCases, score
from experiments.evaluation.slices import Segments
from experiments.gating.verdict import BASELINE, CHAMPION, level
from features.feature_files import Features
from features.sequences import EvaluationCases
from serving.deployment import model_versions, registry
from serving.deployment.registry import Target, Version
from serving.worker.recommender import Recommender

AT_LEAST, AT_MOST = "at least", "at most"
MEANINGS = {
    "coverage": "share of the catalogue that is among the first 10 of any list",
    "diversity": "1 - mean cosine of the content of all pairs among the first 10, averaged over lists",
    "popularity_lift": "training events of an item shown, over those of an average item of the catalogue",
}


def of_lists(lists: np.ndarray, catalogue: Catalog) -> dict[str, float]:
    """The figure of each guard rail of (n, k) lists; NaN where items have no content, or nothing is shown."""
    recommended = counts(lists, HEADLINE, len(catalogue.ids))
    shown = list_means(lists, catalogue.popularity, HEADLINE)
    varied = np.full(1, np.nan) if catalogue.unit is None else diversity(lists, catalogue.unit, HEADLINE)
    average = catalogue.popularity[catalogue.member].mean()
    return {
        "coverage": coverage(recommended, catalogue.member),
        "diversity": _mean(varied),
        "popularity_lift": _mean(shown) / average if average else float("nan"),
    }


def rails(ours: dict[str, float], theirs: dict[str, float], policy: GuardRails) -> list[dict[str, Any]]:
    """One row a guard rail: {"name", "candidate", "champion", "kind", "limit", "within"}; undefined figures are within."""
    rows = []
    for name, ratio in policy.model_dump().items():
        kind = AT_MOST if name == "popularity_lift" else AT_LEAST
        limit = ratio * theirs[name]
        broken = ours[name] > limit if kind == AT_MOST else ours[name] < limit
        rows.append(
            {"name": name, "candidate": number(ours[name]), "champion": number(theirs[name]), "kind": kind,
             "limit": number(limit), "within": not broken}
        )  # fmt: skip
    return rows


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")


CANDIDATE = "candidate"
COLD, WARM = "cold", "warm"
Parts = Mapping[str, Mapping[str, np.ndarray]]  # target -> name -> (n,) bool


def window_start(features: Features, manifests: Mapping[str, dict]) -> int:
    """When judging may begin: after the cut, and after the last event that any of them was fitted on."""
    return max([features.cut_us, *(manifest["fit_until_us"] for manifest in manifests.values())])


def parts_of(
    features: Features, cases: Mapping[str, EvaluationCases], segments: Segments
) -> dict[str, dict[str, np.ndarray]]:
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
    recommenders: Mapping[str, Recommender], features: Features, cases: Mapping[str, EvaluationCases],
    events: pd.DataFrame, users: pd.DataFrame, size: int,
) -> dict[str, dict[str, ScoredCases]]:  # fmt: skip
    """Role -> target -> what it reaches; an artifact that plays two roles is asked once."""
    by_artifact: dict[str, dict[str, ScoredCases]] = {}
    for one in recommenders.values():
        if one.artifact.digest not in by_artifact:
            by_artifact[one.artifact.digest] = score(one, features, cases, events, users, size)
    return {role: by_artifact[one.artifact.digest] for role, one in recommenders.items()}


def weigh(
    scores: Mapping[str, Mapping[str, ScoredCases]], cases: Mapping[str, EvaluationCases], parts: Parts, features: Features,
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
    shown = Catalog.of(catalogue(features))
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


def _compare(
    scores, role: str, cases: Mapping[str, EvaluationCases], parts: Parts, policy: params.Gate, seed: int, looks: int
):
    return {
        target: contrasts(
            scores[CANDIDATE][target].ndcg, scores[role][target].ndcg, every.user,
            parts[target] if role == CHAMPION else {}, policy.segment_margin, seed, policy.resamples, level(policy, looks),
        )
        for target, every in cases.items()
    }  # fmt: skip


def opponent(dataset: str, candidate: Version, features: Features) -> tuple[Target, str | None]:
    """The champion, and None; or its parent, and why.

    A refit on all events that was fitted beyond the cut knows what the window asks. Its parent, of the same recipe,
    has that window for a holdout. On newer events, which neither has seen, the refit itself is the champion.

    Raises:
        RegistryError: nothing may serve.
    """
    target = registry.opponent(dataset, candidate)
    under, fitted = target.report.get("under"), model_versions.stored_manifest(target.version).get("fit_until_us")
    if under is None or (isinstance(fitted, int) and fitted <= features.cut_us):
        return target, None
    parent = registry.justified(registry.find(dataset, under["version"]))
    until = to_iso(fitted) if isinstance(fitted, int) else "nobody knows when"
    instead = (
        f"version {target.version.version}, which serves, was fitted on the window (until {until}), so the champion is "
        f"its parent, version {parent.version.version}, which was not"
    )
    return parent, instead


ROUNDS = 5
Clock = Callable[[], float]


def size_mb(folder: Path) -> float:
    """Of all files of an artifact, in 10^6 bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def latencies(recommenders: Mapping[str, Recommender], clock: Clock = time.process_time) -> dict[str, float]:
    """Role -> median milliseconds of an answer to a golden request, asked one at a time.

    Processor time, which on one thread is the time of an answer with the machine to itself: what else runs beside the
    gate must decide nothing. The roles take turns, request by request; a first round, which pays for what the others
    find ready, is not counted.
    """
    requests = {role: [entry["request"] for entry in one.golden_cases()] for role, one in recommenders.items()}
    taken: dict[str, list[float]] = {role: [] for role in recommenders}
    for turn in range(ROUNDS + 1):
        for position in range(max(map(len, requests.values()), default=0)):
            for role, one in recommenders.items():
                if position < len(requests[role]):
                    begun = clock()
                    one.recommend([requests[role][position]])
                    if turn:
                        taken[role].append((clock() - begun) * 1000)
    return {role: float(np.median(values)) for role, values in taken.items()}


def budgets(sizes: Mapping[str, float], speeds: Mapping[str, float], policy: Budgets) -> list[dict[str, Any]]:
    """One row a budget: {"name", "unit", "candidate", "champion", "limit", "within"}.

    Args:
        sizes, speeds: of "candidate" and "champion", in MB and ms.
    """
    free = max(policy.latency_ratio * speeds["champion"], policy.latency_free_ms)
    limits = {
        "size": ("MB", sizes, policy.size_mb),
        "latency": ("ms", speeds, min(policy.latency_ms, free)),
    }
    return [
        {"name": name, "unit": unit, **{role: round(found[role], 3) for role in ("candidate", "champion")},
         "limit": round(limit, 3), "within": bool(found["candidate"] <= limit)}
        for name, (unit, found, limit) in limits.items()
    ]  # fmt: skip
