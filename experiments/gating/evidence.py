"""Measure candidate, champion and best baseline now, from their artifacts, on the same cases of the holdout.

Stored numbers are not used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from config import params
from config.params import Budgets, GuardRails
from data.times import to_iso
from experiments.evaluation.bootstrap import ALL_CASES, holm, json_number, paired_differences
from experiments.evaluation.cases import HEADLINE, SEGMENT, Catalog, SegmentSlices
from experiments.evaluation.comparison import FITTED_PARAMETERS
from experiments.evaluation.measure import count_items, coverage, diversity, list_means
from experiments.evaluation.ranking import ScoredCases, catalog_items, score_cases
from experiments.gating.verdict import BASELINE, CHAMPION, interval_level
from features.feature_files import Features
from features.sequences import EvaluationCases
from serving.deployment import promotion, registry
from serving.deployment.promotion import ServingTarget
from serving.deployment.registry import RegisteredVersion
from serving.worker.recommender import Recommender
from training import validation
from training.fitting import fit
from training.threads import one_thread

CANDIDATE = "candidate"
COLD, WARM = "cold", "warm"
AT_LEAST, AT_MOST = "at least", "at most"
TIMED_ROUNDS = 5

Cases = Mapping[str, EvaluationCases]  # by target
Parts = Mapping[str, Mapping[str, np.ndarray]]  # target -> part of the users -> (n,) bool


# --- the champion and the holdout


def find_opponent(dataset: str, candidate: RegisteredVersion, features: Features) -> tuple[ServingTarget, str | None]:
    """The version to compare with, and a note if it is not the one that serves.

    A refit on all events was fitted on the holdout, so its parent, which was not, stands in for it. On events that are
    newer than the refit, the refit itself is the champion. Raises RegistryError if nothing may serve.
    """
    target = promotion.champion_to_beat(dataset, candidate)
    parent_ref = target.report.get("under")
    if parent_ref is None:
        return target, None
    fit_until = registry.read_manifest(target.version)["fit_until_us"]
    if fit_until <= features.cut_us:
        return target, None
    parent = promotion.verified_target(registry.find_version(dataset, parent_ref["version"]))
    note = (
        f"version {target.version.version}, which serves, was fitted on the holdout (until {to_iso(fit_until)}); its "
        f"parent, version {parent.version.version}, is the champion in this report"
    )
    return parent, note


def holdout_start(features: Features, manifests: Mapping[str, dict]) -> int:
    """When the holdout begins, in microseconds: after the cut and after the last event that any artifact was fitted on."""
    return max([features.cut_us, *(manifest["fit_until_us"] for manifest in manifests.values())])


def score_all(
    recommenders: Mapping[str, Recommender], features: Features, cases: Cases, events: pd.DataFrame,
    users: pd.DataFrame, batch_size: int,
) -> dict[str, dict[str, ScoredCases]]:  # fmt: skip
    """Role -> target -> scored cases; an artifact in two roles is scored once."""
    distinct = {recommender.artifact.digest: recommender for recommender in recommenders.values()}
    scored = {digest: score_cases(one, features, cases, events, users, batch_size) for digest, one in distinct.items()}
    return {role: scored[recommender.artifact.digest] for role, recommender in recommenders.items()}


# --- comparisons


def user_parts(features: Features, cases: Cases, segments: SegmentSlices) -> dict[str, dict[str, np.ndarray]]:
    """The parts of the users that are compared apart: cold, warm, and each segment of params.yaml at each case's time."""
    parts = {}
    for target, of_target in cases.items():
        cold = of_target.end == features.log.offsets[of_target.user]
        memberships = segments.column(features, of_target)
        parts[target] = {COLD: cold, WARM: ~cold} | {
            SEGMENT + rule["name"]: np.array([rule["name"] in names for names in memberships], dtype=bool)
            for rule in segments.rules
        }
    return parts


def compare(
    scores: Mapping[str, Mapping[str, ScoredCases]], cases: Cases, parts: Parts, features: Features,
    policy: params.Gate, seed: int, looks: int,
) -> dict[str, Any]:  # fmt: skip
    """Compare the candidate with its opponents.

    Returns:
        {"looks", "comparisons": {"champion" | "baseline": {target: contrast}, or None for a baseline that is the
        champion}, "segments": rows of {"target", "segment", "tested", "p_holm", ...contrast}, "guard_rails": rows}.
    """
    ndcg = {role: {target: scored.ndcg for target, scored in of_role.items()} for role, of_role in scores.items()}
    against_champion = _differences(
        ndcg[CANDIDATE], ndcg[CHAMPION], cases, policy.segment_margin, policy, seed, looks, parts
    )
    comparisons: dict[str, Any] = {CHAMPION: _of_all_cases(against_champion), BASELINE: None}
    if BASELINE in scores and scores[BASELINE] is not scores[CHAMPION]:
        against_baseline = _differences(
            ndcg[CANDIDATE], ndcg[BASELINE], cases, policy.segment_margin, policy, seed, looks
        )
        comparisons[BASELINE] = _of_all_cases(against_baseline)
    lists = {role: by_target[policy.primary].lists for role, by_target in scores.items() if policy.primary in by_target}
    return {
        "looks": looks,
        "comparisons": comparisons,
        "segments": segment_rows(against_champion, policy),
        "guard_rails": check_guard_rails(lists, features, policy.guard_rails) if lists else [],
    }


def _differences(
    ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], cases: Cases, margin: float, policy: params.Gate,
    seed: int, looks: int, parts: Parts | None = None,
) -> dict[str, dict[str, dict]]:  # fmt: skip
    """Target -> part of the users -> paired difference, with intervals at the level of this look."""
    level = interval_level(policy, looks)
    return {
        target: paired_differences(
            ours[target], theirs[target], of_target.user, parts[target] if parts else {}, margin, seed,
            policy.resamples, level,
        )
        for target, of_target in cases.items()
    }  # fmt: skip


def _of_all_cases(differences: Mapping[str, Mapping[str, dict]]) -> dict[str, dict]:
    return {target: parts[ALL_CASES] for target, parts in differences.items()}


def segment_rows(by_target: Mapping[str, Mapping[str, dict]], policy: params.Gate) -> list[dict[str, Any]]:
    """One row per target and segment. Cold users and every segment with enough users are tested together (Holm)."""
    rows = [
        {"target": target, "segment": name.removeprefix(SEGMENT), **row}
        for target, parts in by_target.items()
        for name, row in parts.items()
        if name != ALL_CASES
    ]
    for row in rows:
        row["tested"] = row["segment"] == COLD or row["users"] >= policy.segment_min_users
    tested = [row for row in rows if row["tested"]]
    for row, adjusted in zip(tested, holm([row["p_loss"] for row in tested]), strict=True):
        row["p_holm"] = adjusted
    return rows


# --- guard rails: figures of the lists


def check_guard_rails(lists: Mapping[str, np.ndarray], features: Features, limits: GuardRails) -> list[dict[str, Any]]:
    """One row per guard rail: {"name", "candidate", "champion", "kind", "limit", "within"}. An undefined figure passes.

    `lists` has (n, 10) rows of the catalog by role.
    """
    catalog = Catalog.from_items(catalog_items(features))
    ours, theirs = (list_figures(lists[role], catalog) for role in (CANDIDATE, CHAMPION))
    rows = []
    for name, ratio in limits.model_dump().items():
        kind, limit = AT_MOST if name == "popularity_lift" else AT_LEAST, ratio * theirs[name]
        broken = ours[name] > limit if kind == AT_MOST else ours[name] < limit
        rows.append(
            {"name": name, "candidate": json_number(ours[name]), "champion": json_number(theirs[name]), "kind": kind,
             "limit": json_number(limit), "within": not broken}
        )  # fmt: skip
    return rows


def list_figures(lists: np.ndarray, catalog: Catalog) -> dict[str, float]:
    """Figures of (n, k) lists; NaN if items have no content or nothing is shown.

    Returns:
        "coverage": share of the catalog among the first 10 of any list; "diversity": 1 - mean cosine of the content of
        all pairs of a list; "popularity_lift": training events of a shown item over those of an average item.
    """
    varied = np.nan if catalog.unit is None else diversity(lists, catalog.unit, HEADLINE)
    shown = pd.Series(list_means(lists, catalog.popularity, HEADLINE))
    average = catalog.popularity[catalog.member].mean()
    return {
        "coverage": coverage(count_items(lists, HEADLINE, len(catalog.ids)), catalog.member),
        "diversity": float(pd.Series(varied).mean()),
        "popularity_lift": float(shown.mean() / average) if average else float("nan"),
    }


# --- budgets: size and latency


def check_budgets(
    folders: Mapping[str, Path], recommenders: Mapping[str, Recommender], limits: Budgets
) -> list[dict[str, Any]]:
    """Measure candidate and champion, and check both budgets; see `budget_rows`."""
    roles = (CANDIDATE, CHAMPION)
    with one_thread():
        latencies = median_latencies({role: recommenders[role] for role in roles})
    return budget_rows({role: size_mb(folders[role]) for role in roles}, latencies, limits)


def budget_rows(sizes: Mapping[str, float], latencies: Mapping[str, float], limits: Budgets) -> list[dict[str, Any]]:
    """One row per budget, from MB and ms by role: {"name", "unit", "candidate", "champion", "limit", "within"}."""
    relative = max(limits.latency_ratio * latencies[CHAMPION], limits.latency_free_ms)
    rows = (("size", "MB", sizes, limits.size_mb), ("latency", "ms", latencies, min(limits.latency_ms, relative)))
    return [
        {"name": name, "unit": unit, "candidate": round(found[CANDIDATE], 3), "champion": round(found[CHAMPION], 3),
         "limit": round(limit, 3), "within": bool(found[CANDIDATE] <= limit)}
        for name, unit, found, limit in rows
    ]  # fmt: skip


def size_mb(folder: Path) -> float:
    """Size of all files of an artifact, in 10^6 bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def median_latencies(
    recommenders: Mapping[str, Recommender], clock: Callable[[], float] = time.process_time
) -> dict[str, float]:
    """Role -> median milliseconds per golden request, one request at a time.

    The clock counts processor time, so that other programs on the machine do not influence the result. The roles take
    turns, request by request. A first round fills caches and is not counted.
    """
    requests = [[(role, entry["request"]) for entry in one.golden_cases()] for role, one in recommenders.items()]
    taken: dict[str, list[float]] = {role: [] for role in recommenders}
    for turn in range(TIMED_ROUNDS + 1):
        for role, request in filter(None, chain.from_iterable(zip_longest(*requests))):
            start = clock()
            recommenders[role].recommend([request])
            if turn:
                taken[role].append((clock() - start) * 1000)
    return {role: float(np.median(values)) for role, values in taken.items()}


# --- the champion's configuration on the candidate's data


def why_no_same_data_refit(
    candidate: Mapping[str, Any], champion: Mapping[str, Any], features: Features, requested: bool
) -> str | None:
    """Why the champion's configuration is not fitted on the candidate's data; None if it is to be fitted.

    `candidate` and `champion` are manifests. `requested` is gate.refit.
    """
    if all(candidate[key] == champion[key] for key in ("dataset_hash", "fit_until_us")):
        return "not needed: both were fitted on the same data, so fresher data explains nothing"
    if chosen_params(candidate["params"]) == chosen_params(champion["params"]):
        return "not needed: the candidate is the champion's configuration on newer data, which explains everything"
    if (candidate["fit_until_us"], candidate["dataset_hash"]) != (
        features.cut_us,
        features.description["dataset_hash"],
    ):
        return "not possible: the candidate was fitted on other data than these features"
    if not requested:
        return "not done: this report cannot separate the idea from the fresher data; use --refit (it takes one fit)"
    return None


def same_data_refit(
    champion_params: dict, ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], cases: Cases,
    features: Features, settings: params.Params, looks: int,
) -> dict[str, Any]:  # fmt: skip
    """Fit the champion's configuration at the present cut, and compare it with champion and candidate.

    Args:
        ours, theirs: target -> (n,) NDCG@10 of candidate and champion.

    Returns:
        {"seconds", "data": {target: contrast of refit and champion}, "idea": {target: contrast of candidate and refit}}.
    """
    policy = settings.gate
    result = fit(champion_params, features, settings.train, settings.train.seed)
    trends, batch_size = features.trend_log(), settings.train.eval_batch_size
    refitted = {
        target: validation.ndcg(result.model, features, of_target, trends, batch_size)
        for target, of_target in cases.items()
    }

    def between(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> dict[str, dict]:
        return _of_all_cases(_differences(one, other, cases, policy.margin, policy, settings.seed, looks))

    return {"seconds": round(result.seconds, 1), "data": between(refitted, theirs), "idea": between(ours, refitted)}


def chosen_params(configuration: Any) -> Any:
    """A configuration without the values that its fit added: what a user chose."""
    if not isinstance(configuration, dict):
        return configuration
    return {name: chosen_params(value) for name, value in configuration.items() if name not in FITTED_PARAMETERS}
