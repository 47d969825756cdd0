"""Fit the champion's configuration once more, on all events, and check the result without a holdout.

No later event can judge a refit. It serves under the report by which the gate promoted its parent, if it has the same
configuration, seed, code and dataset version, passes every check that needs no holdout, and recommends what its parent
does. Where the refit has seen the holdout, the next gate compares candidates with the parent.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from config import params
from config.command import UserError
from config.paths import CHECKPOINTS, FEATURES, INGESTED, REFITS, SPLIT
from data.files import read_json
from data.times import to_iso
from experiments.evaluation.ranking import score_cases
from experiments.gating import evidence, judgment, preconditions, verdict
from experiments.gating.evidence import CANDIDATE
from experiments.gating.judgment import GateCase
from experiments.gating.preconditions import CodeState
from experiments.gating.verdict import CHAMPION, GateDecision
from experiments.leakage import report as leakage_report
from experiments.lineage import skew_report
from features import feature_files
from features.feature_files import FULL, Features
from features.fit import fit_cuts
from features.sequences import EvaluationCases, next_item_cases
from serving.artifact import export_artifact
from serving.artifact.export_artifact import SideTables
from serving.deployment import promotion, registry
from serving.deployment.promotion import ServingTarget
from serving.worker import fallback
from serving.worker.recommender import Recommender
from training import distributed, fitting, provenance, tracking
from training.fitting import fit
from training.model_factory import is_learned
from training.models import artifact

# What a refit shares with its parent: key -> its name in words.
MANIFEST_FACTS = {
    "dataset_hash": "dataset version", "split_id": "split", "commit": "code commit", "lock_hash": "lock",
    "label": "label", "params": "configuration", "seed": "seed",
}  # fmt: skip
CONFIG_FACTS = {"serve": "presentation (serve)", "repeats": "rule for repeats", "refresh_minutes": "trends refresh"}
UNKNOWN = (None, "unknown")  # a commit is unknown outside git
MAX_VALUE_LENGTH = 60
REFIT_ELSEWHERE = (
    "check out the parent's commit with its params.yaml and data, or retrain: a new parent can be refitted here"
)


# --- before the fit


def refittable_champion(dataset: str) -> ServingTarget:
    """The champion, if the gate promoted it.

    Raises:
        RegistryError: nothing may serve.
        UserError: it is champion by an override, so there is no report to serve under.
    """
    target = promotion.serving_target(dataset)
    if target.report["verdict"] == promotion.OVERRIDE_VERDICT:
        name = f"{dataset} {target.version.version}"
        raise UserError(f"{name} is champion by an override; only a version that passed the gate is refitted")
    return target


def check_before_fit(
    parent: ServingTarget, settings: params.Params, code: CodeState, override: bool
) -> tuple[Features, dict]:
    """Check what must hold before a fit, and make the features of all events. Returns the features and their audit.

    Raises:
        UserError: the code is not committed, something leaks or is served differently, or code, lock, dataset or
            settings are not the parent's.
    """
    _require(None if override else preconditions.uncommitted_code(code))
    _require(preconditions.skewed_serving(skew_report.last(settings.dataset), settings.gate))
    if lines := parent_differences(parent, settings):
        name = f"{parent.version.dataset} {parent.version.version}"
        raise UserError(f"{name} cannot be refitted here: {'; '.join(lines)}; {REFIT_ELSEWHERE}")
    split_audit = leakage_report.up_to_date(settings)
    _require(preconditions.failed_audit(split_audit))
    [(_, features)] = fit_cuts([FULL], settings)
    feature_files.save_features(FEATURES / FULL, features)
    audit = leakage_report.audit_full(settings) | {"audited": split_audit["audited"]}
    _require(preconditions.failed_audit(audit))
    return feature_files.load_features(FEATURES / FULL), audit


def _require(refusal: GateDecision | None) -> None:
    if refusal is not None:
        raise UserError(f"{refusal.reason}; {refusal.advice}")


def parent_differences(parent: ServingTarget, settings: params.Params) -> list[str]:
    """How code, lock, dataset and settings here differ from the parent's, a line each."""
    version, split = parent.version, read_json(SPLIT / "manifest.json", "python -m data.split")
    config = registry.read_text(version, f"{version.source}/config.json")
    here = {
        "dataset_hash": split["dataset_hash"],
        "split_id": split["split_id"],
        "commit": provenance.commit(),
        "lock_hash": provenance.lock_hash(),
        "serve": settings.serve.model_dump(mode="json"),
        "repeats": settings.ingest.repeats,
        "refresh_minutes": settings.featurize.trends.refresh_minutes,
    }
    names = {key: name for key, name in (MANIFEST_FACTS | CONFIG_FACTS).items() if key in here}
    return differences(registry.read_manifest(version) | json.loads(config), here, names)


def differences(parent: Mapping[str, Any], child: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """How a child differs from its parent, a line each. A fact that the parent does not state is a difference too.

    Args:
        names: key -> its name in words.
    """
    return [
        f"its {name} is {_short(child.get(key))}, its parent's {_short(parent.get(key))}"
        for key, name in names.items()
        if parent.get(key) in UNKNOWN or child.get(key) != parent.get(key)
    ]


def _short(value: object) -> str:
    text = "unknown" if value in UNKNOWN else str(value)
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[:MAX_VALUE_LENGTH]}..."


# --- the fit


def run(settings: params.Params, parent: ServingTarget, override: bool) -> dict[str, Any]:
    """Refit, judge, and promote on PROMOTE; returns the report.

    Raises:
        UserError: as `check_before_fit` and `fit_on_all_events`.
    """
    code, dataset = preconditions.code_state(), settings.dataset
    features, audit = check_before_fit(parent, settings, code, override)
    version = fit_on_all_events(parent, features, settings)
    parent_ref = {
        "version": parent.version.version,
        "artifact": parent.version.artifact,
        "report": promotion.report_digest(parent.version),
    }
    label = str(registry.read_manifest(parent.version)["label"])
    case = GateCase(
        settings=settings, features=features, label=label, candidate=registry.find_version(dataset, version),
        champion=parent.version, champion_label=label, baseline=None, code=code, audit=audit, override=override,
        now_us=time.time_ns() // 1000, skew=skew_report.last(dataset),
    )  # fmt: skip
    return judgment.settle(dataset, version, judge_refit(case, parent_ref))


def fit_on_all_events(parent: ServingTarget, features: Features, settings: params.Params) -> str:
    """Fit the parent's configuration on all events, export it and register it; returns the version.

    Raises:
        UserError: the parent does not state its seed, or the configuration cannot be fitted.
    """
    version, manifest = parent.version, registry.read_manifest(parent.version)
    label, configuration, seed = manifest["label"], manifest["params"], manifest.get("seed")
    if seed is None:
        raise UserError(f"{version.dataset} {version.version} does not state its seed; fit, export and gate it again")
    devices = distributed.num_devices() if is_learned(configuration["name"]) else 1
    with tracking.training_run(label, configuration, features, settings) as run:
        result = fit(configuration, features, settings.train, seed, run.log_epoch, CHECKPOINTS, None, devices)
        run.tag(devices=str(devices), refit_of=version.version)
        run.log_fit(result)
    fitted = REFITS / "fitted" / label
    refit_of = {"version": version.version, "artifact": version.artifact}
    fitting.save_fit(
        fitted, result, {"label": label, "cut": FULL, "run_id": run.run_id, "seed": seed, "refit_of": refit_of}
    )
    folder = REFITS / "artifacts" / label
    torch.set_num_threads(1)
    facts = json.loads((fitted / "fit.json").read_text())
    export_artifact.export_artifact(
        folder, fitted / "weights.safetensors", facts, features, settings, SideTables.read()
    )
    return registry.register_version(version.dataset, folder, run.run_id, {"label": label, "refit_of": version.version})


# --- the checks of a refit


def judge_refit(case: GateCase, parent_ref: dict[str, str]) -> dict[str, Any]:
    """The report of a refit.

    Args:
        case: with the refit as candidate, its parent as champion, and the features of all events.
        parent_ref: the parent's version and artifact, and the hash of its gate report.
    """
    found: dict[str, Any] = {"leakage_checks": len(case.audit["checks"])}
    with judgment.open_artifacts(case) as folders:
        manifests = {role: artifact.verify(folder) for role, folder in folders.items()}
        decision = _decide(case, folders, manifests, found)
    artifacts = {role: judgment.describe_artifact(manifest) for role, manifest in manifests.items()}
    return judgment.build_report(case, decision, found) | {"under": parent_ref, "artifacts": artifacts}


def _decide(
    case: GateCase, folders: Mapping[str, Path], manifests: Mapping[str, dict], found: dict[str, Any]
) -> GateDecision:
    """Run the checks, cheap ones first, until one fails. Adds what they find to `found`."""
    policy = case.settings.gate
    if decision := not_a_refit(folders, manifests) or preconditions.poor_index(manifests[CANDIDATE], policy):
        return decision
    recommenders = {role: Recommender.load(folder) for role, folder in folders.items()}
    parent, child = recommenders[CHAMPION], recommenders[CANDIDATE]
    if decision := preconditions.changed_answers(parent, child, case.champion.version):
        return decision
    found["golden_answers"] = len(parent.golden_cases())
    found["budgets"] = evidence.check_budgets(folders, recommenders, policy.budgets)
    if decision := verdict.broken_budget(found["budgets"]):
        return decision
    lists, cases = recent_lists(case, recommenders)
    found["guard_rails"] = evidence.check_guard_rails(lists, case.features, policy.guard_rails)
    found["agreement"] = measure_agreement(lists, cases, case.settings.retrain)
    return (
        verdict.broken_guard_rail(found["guard_rails"])
        or too_different(found["agreement"])
        or _passed(case, found["agreement"])
    )


def not_a_refit(folders: Mapping[str, Path], manifests: Mapping[str, dict]) -> GateDecision | None:
    """Reject an artifact that was made with another configuration, code or dataset version than its parent."""

    def read(name: str) -> dict[str, dict]:
        return {role: json.loads((folder / name).read_text()) for role, folder in folders.items()}

    configs, segments = read("config.json"), read(fallback.SEGMENTS_FILE)
    lines = [
        *differences(manifests[CHAMPION], manifests[CANDIDATE], MANIFEST_FACTS),
        *differences(configs[CHAMPION], configs[CANDIDATE], CONFIG_FACTS),
        *differences(segments[CHAMPION], segments[CANDIDATE], {"rules": "segment rules"}),
    ]
    if not lines:
        return None
    return GateDecision(verdict.REJECT, f"it is not a refit of its parent: {'; '.join(lines)}", REFIT_ELSEWHERE)


def recent_lists(
    case: GateCase, recommenders: Mapping[str, Recommender]
) -> tuple[dict[str, np.ndarray], EvaluationCases]:
    """(role -> (n, 10) lists, rows of the catalog or -1; the cases): both models on the newest requests."""
    settings, features = case.settings, case.features
    cases = newest_cases(features, settings.retrain.refit_requests)
    events, users = pd.read_parquet(SPLIT / "events.parquet"), pd.read_parquet(INGESTED / "users.parquet")
    lists = {
        role: score_cases(one, features, {"next_item": cases}, events, users, settings.train.eval_batch_size)[
            "next_item"
        ].lists
        for role, one in recommenders.items()
    }
    return lists, cases


def newest_cases(features: Features, count: int) -> EvaluationCases:
    """The next_item cases of the newest events, whatever the cut: the live page as it was requested."""
    cases = next_item_cases(features.log, 0, features.description["until_us"])
    newest = np.argsort(cases.time, kind="stable")[-count:]
    return cases.take(np.sort(newest))


def measure_agreement(
    lists: Mapping[str, np.ndarray], cases: EvaluationCases, limits: params.Retrain
) -> dict[str, Any]:
    """The mean overlap of the child's lists with the parent's."""
    shares = overlap(lists[CHAMPION], lists[CANDIDATE])
    shares = shares[~np.isnan(shares)]
    return {
        "requests": len(shares),
        "users": len(np.unique(cases.user)),
        "since": to_iso(int(cases.time.min())) if len(cases) else None,
        "overlap": float(shares.mean()) if len(shares) else 0.0,
        "bar": limits.refit_overlap,
    }


def overlap(parent: np.ndarray, child: np.ndarray) -> np.ndarray:
    """(n,) share of each of the parent's (n, 10) lists that the child's list holds too; NaN for an empty list."""
    shown = parent >= 0
    held = (parent[:, :, None] == child[:, None, :]).any(axis=2) & shown
    sizes = shown.sum(axis=1)
    return np.where(sizes > 0, held.sum(axis=1) / np.maximum(sizes, 1), np.nan)


def too_different(agreement: Mapping[str, Any]) -> GateDecision | None:
    """Reject a refit whose lists have too little in common with its parent's, which were judged."""
    if agreement["requests"] and agreement["overlap"] >= agreement["bar"]:
        return None
    reason = (
        f"its lists share {agreement['overlap']:.3f} of its parent's 10 items on {agreement['requests']:,} recent requests; "
        f"at least {agreement['bar']:g} is required (retrain.refit_overlap)"
    )
    advice = "keep the parent, which serves; find out how the newest events differ from the older ones"
    return GateDecision(verdict.REJECT, reason, advice)


def _passed(case: GateCase, agreement: Mapping[str, Any]) -> GateDecision:
    reason = (
        f"refit of version {case.champion.version}, which the gate promoted, on all events until "
        f"{to_iso(case.features.cut_us)}; it recommends {agreement['overlap']:.0%} of its parent's items on "
        f"{agreement['requests']:,} recent requests"
    )
    return GateDecision(verdict.PROMOTE, reason, verdict.DEPLOY)
