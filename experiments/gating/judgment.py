"""Judge a candidate, and promote it on PROMOTE. docs/gate.md describes the whole.

The order: preconditions, the look at the holdout, the verdict, the report, the alias. Every look is recorded
(experiments/gating/looks.py), because each one makes the next test stricter.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from config import params
from config.command import UserError
from config.paths import ARTIFACTS, FEATURES, INGESTED, METRICS, SPLIT
from data.columns import DAY
from data.times import to_iso
from experiments.evaluation.cases import SegmentSlices
from experiments.evaluation.comparison import best_on_validation, read_metrics
from experiments.evaluation.ranking import cases_since
from experiments.gating import evidence, looks, preconditions, report_page, verdict
from experiments.gating.evidence import CANDIDATE
from experiments.gating.preconditions import CodeState
from experiments.gating.verdict import BASELINE, CHAMPION, GateDecision
from experiments.leakage import report as leakage_report
from experiments.lineage import skew_report
from features import feature_files
from features.feature_files import Features
from serving.deployment import decisions, promotion, registry
from serving.deployment.registry import RegisteredVersion
from serving.worker.recommender import Recommender
from training.models import artifact

# --- the run: choose candidate and champion, judge, promote


def run(settings: params.Params, label: str | None, override: bool = False, again: str = "") -> list[dict]:
    """Judge the candidate against the champion; a platform without a champion first gets the best baseline.

    Args:
        label: the candidate; None takes the best learned model on validation.
        override: judge although the code has uncommitted changes.
        again: why an artifact that a rollback removed may be promoted without later events; empty if it may not.

    Returns:
        One report for each judgment.
    """
    reports = []
    if promotion.settle_aliases(settings.dataset) is None:  # no champion, or one from before decisions were signed
        baseline = best_label(settings, learned=False)
        if baseline is None:
            raise UserError("train.models in params.yaml holds no baseline; the first champion must be one")
        reports.append(promote_first_champion(settings, baseline, override))
        if reports[0]["verdict"] != verdict.PROMOTE:
            return reports  # without a champion there is nothing to judge against
    label = label or best_label(settings, learned=True)
    if label is not None:
        reports.append(judge_label(settings, label, override, again))
    return reports


def best_label(settings: params.Params, learned: bool) -> str | None:
    """The label of the best learned model, or the best baseline, on validation; the holdout is not looked at."""
    measured = read_metrics(METRICS, settings.dataset)
    return best_on_validation([model for model in measured if model.label in settings.train.models], learned)


def promote_first_champion(settings: params.Params, label: str, override: bool) -> dict:
    """Make the best baseline the champion of a platform that has none."""
    code, version = preconditions.code_state(), register(settings.dataset, label)
    refusal = None if override else preconditions.uncommitted_code(code)
    reason = "first champion: the best baseline on validation"
    if not any(model.validation for model in read_metrics(METRICS, settings.dataset) if not model.oracle):
        reason = "first champion: a baseline; which is best is not decided, since validation has no cases"
    first = GateDecision(verdict.PROMOTE, reason, verdict.DEPLOY)
    report = _report_head(settings, refusal or first, label, code, override, time.time_ns() // 1000)
    return settle(settings.dataset, version, report | {"against_version": None, "evidence": {}})


def judge_label(settings: params.Params, label: str, override: bool, again: str = "") -> dict:
    """Judge a label's artifact and promote it on PROMOTE. The same question again returns the earlier report."""
    dataset = settings.dataset
    version = register(dataset, label)
    candidate = registry.find_version(dataset, version)
    features = feature_files.load_features(FEATURES / "test")
    target, note = evidence.find_opponent(dataset, candidate, features)
    champion = target.version
    known = {"version": version, "decided_before": True}
    if candidate.version == champion.version:
        return target.report | known | {"champion_note": note, "overrides": standing_overrides(dataset)}
    earlier = looks.earlier_report(dataset, question_of(settings, features, candidate, champion))
    if earlier is not None and earlier["verdict"] != verdict.PROMOTE:
        return earlier | known | {"overrides": earlier["overrides"] + standing_overrides(dataset)}
    if decisions.read_log(dataset).was_promoted(version):
        earlier = None
    promotion.set_challenger(dataset, version)
    baseline = best_label(settings, learned=False)
    case = GateCase(
        settings=settings, features=features, label=label, candidate=candidate, champion=champion,
        champion_label=str(target.report.get("label", "")), champion_note=note,
        baseline=exported_artifact(baseline) if baseline else None, code=preconditions.code_state(),
        audit=leakage_report.up_to_date(settings), skew=skew_report.last(dataset), override=override,
        now_us=time.time_ns() // 1000,
        bar=None if again else promotion.bar_problem(candidate, to_iso(features.description["until_us"])),
        never_promoted=earlier,
    )  # fmt: skip
    return settle(dataset, version, judge(case) | ({"again": again} if again else {}))


def register(dataset: str, label: str) -> str:
    """Register a label's artifact and return the version; the same artifact is registered once."""
    folder = exported_artifact(label)
    manifest = json.loads((folder / artifact.MANIFEST).read_text(encoding="utf-8"))
    try:
        return registry.register_version(dataset, folder, manifest["run_id"], {"label": label})
    except registry.RegistryError:  # the run is not in this registry: the artifact was pulled, not trained on this host
        return registry.register_version(dataset, folder, None, {"label": label})


def exported_artifact(label: str) -> Path:
    """Folder of a label's artifact. Raises UserError if it was not exported."""
    folder = ARTIFACTS / label
    if not (folder / artifact.MANIFEST).exists():
        raise UserError(f"{folder} is missing; run `dvc repro` first")
    return folder


def settle(dataset: str, version: str, report: dict) -> dict:
    """Set the champion alias on PROMOTE, else note the verdict on the version. Returns the report with the version."""
    report = report | {"overrides": report["overrides"] + standing_overrides(dataset)}
    if report["verdict"] == verdict.PROMOTE:
        promotion.promote(dataset, version, report, report_page.page(report | {"version": version}))
    else:
        promotion.record_verdict(dataset, version, report)
    return report | {"version": version}


def standing_overrides(dataset: str) -> list[str]:
    """The override that is in force, as a line; empty if there is none."""
    override = promotion.standing_override(dataset)
    return [promotion.describe_override(override)] if override else []


# --- the judgment of one candidate


@dataclass(frozen=True)
class GateCase:
    """A candidate to judge, and what it is judged with.

    Attributes:
        champion_note: why the champion is not the version that serves; None if it is.
        baseline: folder of the best baseline's artifact; None if there is no baseline.
        audit: report of the leakage audit of these products.
        skew: last report of `experiments.skew` on this dataset; None if nothing was measured.
        override: judge although the code has uncommitted changes.
        now_us: the time of the judgment.
        bar: why a rollback bars the candidate; None if it does not.
        never_promoted: the report of an earlier look that says PROMOTE, if the gate was killed before it promoted.
    """

    settings: params.Params
    features: Features
    label: str
    candidate: RegisteredVersion
    champion: RegisteredVersion
    champion_label: str
    baseline: Path | None
    code: CodeState
    audit: dict[str, Any]
    override: bool
    now_us: int
    skew: dict[str, Any] | None = None
    champion_note: str | None = None
    bar: str | None = None
    never_promoted: dict[str, Any] | None = None


def judge(case: GateCase) -> dict[str, Any]:
    """Judge a candidate and return the report. A look at the holdout is recorded before anybody sees it."""
    policy = case.settings.gate
    refusal = (
        (None if case.override else preconditions.uncommitted_code(case.code))
        or preconditions.rolled_back(case.bar)
        or preconditions.failed_audit(case.audit)
        or preconditions.skewed_serving(case.skew, policy)
    )
    if refusal:
        return build_report(case, refusal, {})
    if case.never_promoted:
        return case.never_promoted
    with open_artifacts(case) as folders:
        manifests = {role: artifact.verify(folder) for role, folder in folders.items()}
        known = {"artifacts": {role: describe_artifact(manifest) for role, manifest in manifests.items()}}
        until_us = case.features.description["until_us"]
        if decision := (
            preconditions.no_unseen_events(manifests, until_us)
            or preconditions.poor_index(manifests[CANDIDATE], policy)
        ):
            return build_report(case, decision, {}) | known
        recommenders = {role: Recommender.load(folder) for role, folder in folders.items()}
        if decision := preconditions.changed_answers(
            recommenders[CHAMPION], recommenders[CANDIDATE], case.champion.version
        ):
            return build_report(case, decision, {}) | known
        budgets = evidence.check_budgets(folders, recommenders, policy.budgets)
        if decision := verdict.broken_budget(budgets):
            return build_report(case, decision, {"budgets": budgets}) | known
        undecided = leakage_report.undecided(case.audit)
        look = looks.begin(
            case.settings.dataset, question_of(case.settings, case.features, case.candidate, case.champion)
        )
        found = {
            "budgets": budgets,
            "golden_answers": len(recommenders[CHAMPION].golden_cases()),
            "leakage_checks": len(case.audit["checks"]) - len(undecided),
            "leakage_undecided": undecided,
            **look_at_holdout(case, recommenders, manifests, look.number),
        }
    span = {"holdout_start": to_iso(found["start_us"]), "holdout_end": to_iso(until_us)}
    report = build_report(case, verdict.decide(found, policy), found) | known | span | {"looks": found["looks"]}
    looks.finish(look, case.candidate, report)
    return report


def question_of(
    settings: params.Params, features: Features, candidate: RegisteredVersion, champion: RegisteredVersion
) -> looks.Question:
    """What a look at this holdout would answer."""
    split_id = features.description["split_id"]
    return looks.Question(split_id, candidate.artifact, champion.artifact, policy_hash(settings.gate))


def look_at_holdout(
    case: GateCase, recommenders: Mapping[str, Recommender], manifests: Mapping[str, dict], look_number: int
) -> dict[str, Any]:
    """Score all roles on the holdout and compare them; the evidence of the verdict."""
    settings, features = case.settings, case.features
    begin = time.perf_counter()
    start_us = evidence.holdout_start(features, manifests)
    cases = cases_since(features, start_us)
    events, users = pd.read_parquet(SPLIT / "events.parquet"), pd.read_parquet(INGESTED / "users.parquet")
    scores = evidence.score_all(recommenders, features, cases, events, users, settings.train.eval_batch_size)
    parts = evidence.user_parts(features, cases, SegmentSlices.of(settings.segments.plain(), features))
    found = evidence.compare(scores, cases, parts, features, settings.gate, settings.seed, look_number)
    reason = evidence.why_no_same_data_refit(manifests[CANDIDATE], manifests[CHAMPION], features, settings.gate.refit)
    refit: dict[str, Any] = {"reason": reason}
    if reason is None:
        ours, theirs = (
            {target: scored.ndcg for target, scored in scores[role].items()} for role in (CANDIDATE, CHAMPION)
        )
        refit |= evidence.same_data_refit(
            manifests[CHAMPION]["params"], ours, theirs, cases, features, settings, look_number
        )
    age_days = (case.now_us - features.description["until_us"]) / DAY
    seconds = round(time.perf_counter() - begin, 1)
    return found | {"refit": refit, "start_us": start_us, "age_days": age_days, "seconds": seconds}


@contextmanager
def open_artifacts(case: GateCase) -> Iterator[dict[str, Path]]:
    """Role -> folder of its artifact: as registered, the baseline's as exported."""
    with tempfile.TemporaryDirectory(prefix="tidegate-gate-") as scratch:
        folders = {}
        for role, version in ((CANDIDATE, case.candidate), (CHAMPION, case.champion)):
            (target := Path(scratch) / role).mkdir()
            folders[role] = registry.download_artifact(version, target)
        yield folders | ({BASELINE: case.baseline} if case.baseline else {})


# --- the report


def build_report(case: GateCase, decision: GateDecision, found: dict[str, Any]) -> dict[str, Any]:
    """The report as plain data: the decision and everything that it rests on."""
    description = case.features.description
    return _report_head(case.settings, decision, case.label, case.code, case.override, case.now_us) | {
        "against_version": case.champion.version,
        "against_label": case.champion_label,
        "champion_note": case.champion_note,
        "evidence": found,
        "split_id": description["split_id"],
        "dataset_hash": description["dataset_hash"],
        "newest_event": to_iso(description["until_us"]),
        "audited": case.audit.get("audited"),
        "skew": case.skew and {key: case.skew[key] for key in ("date", "dataset_hash", "answers", "groups")},
    }


def _report_head(
    settings: params.Params, decision: GateDecision, label: str, code: CodeState, override: bool, now_us: int
) -> dict[str, Any]:
    return {
        **decision._asdict(),
        "overrides": [f"judged with uncommitted code: {code.changed}"] if code.changed and override else [],
        "dataset": settings.dataset,
        "label": label,
        "primary": settings.gate.primary,
        "policy": settings.gate.model_dump(mode="json"),
        "policy_hash": policy_hash(settings.gate),
        "code": code._asdict(),
        "date": datetime.fromtimestamp(now_us / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def describe_artifact(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The facts about an artifact in a report."""
    return {key: manifest.get(key) for key in ("label", "model", "commit", "dataset_hash", "fit_until", "run_id")}


def policy_hash(policy: params.Gate) -> str:
    """blake2b of the policy as canonical JSON. Two reports with the same hash were decided by the same rule."""
    text = json.dumps(policy.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
