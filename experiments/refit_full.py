"""Fit the champion's configuration once more, on all events, so that the newest are used too.

No later event can judge a refit. It serves under the report by which the gate promoted its parent, if it has the same
configuration, seed, code and dataset version, passes every check that needs no holdout, and recommends what its parent
does. Where the refit has seen the holdout, the next gate compares candidates with the parent.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import pandas as pd

from config import params
from config.command import UserError, exits_cleanly
from config.paths import CHECKPOINTS, EXPERIMENTS, FEATURES, INGESTED, REFITS, SPLIT
from data.files import read_json, write_text
from data.times import to_iso
from experiments.evaluation.ranking import score_cases
from experiments.gating import evidence, judgment, preconditions, report_page, verdict
from experiments.gating.evidence import CANDIDATE
from experiments.gating.judgment import GateCase
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
from serving.deployment.registry import RegisteredVersion
from serving.worker.fallback_level import SEGMENTS_FILE
from serving.worker.recommender import Recommender
from training import distributed, fitting, provenance, tracking
from training.model_factory import is_learned
from training.models import artifact
from training.threads import one_thread

REPORT = EXPERIMENTS / "refit.json"
PAGE = REPORT.with_suffix(".html")
MAX_LINE_LENGTH = 160  # of a difference from the parent


# --- before the fit


def check_before_fit(parent: RegisteredVersion, settings: params.Params, override: bool) -> tuple[Features, dict]:
    """Check what must hold before a fit, and make the features of all events. Returns the features and their audit.

    Raises:
        UserError: the code is not committed, something leaks or is served differently, or code, lock, dataset or
            settings are not the parent's.
    """
    _require(None if override else preconditions.uncommitted_code(preconditions.code_state()))
    _require(preconditions.skewed_serving(skew_report.last(settings.dataset), settings.gate))
    if lines := differences_from(parent, settings):
        raise UserError(
            f"{parent} cannot be refitted here: {'; '.join(lines)}; check out the parent's commit with its params.yaml "
            "and data, or retrain: a new parent can be refitted here"
        )
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


def differences_from(parent: RegisteredVersion, settings: params.Params) -> list[str]:
    """How code, lock, dataset and settings here differ from the parent's, a line each. An unknown commit differs."""
    split = read_json(SPLIT / "manifest.json", "python -m data.split")
    config, segments = (
        json.loads(registry.read_text(parent, f"{parent.source}/{name}")) for name in ("config.json", SEGMENTS_FILE)
    )
    theirs = registry.read_manifest(parent) | config | {"rules": segments["rules"]}
    ours = {  # key of the parent's files -> (name, value here)
        "dataset_hash": ("dataset version", split["dataset_hash"]),
        "split_id": ("split", split["split_id"]),
        "commit": ("code commit", provenance.commit()),
        "lock_hash": ("lock", provenance.lock_hash()),
        "serve": ("presentation (serve)", settings.serve.model_dump(mode="json")),
        "repeats": ("rule for repeats", settings.ingest.repeats),
        "refresh_minutes": ("trends refresh", settings.featurize.trends.refresh_minutes),
        "rules": ("segment rules", json.loads(json.dumps(settings.segments.plain()))),
    }
    return [
        shorten(f"its {name} is {value}, its parent's {theirs[key]}", MAX_LINE_LENGTH, placeholder="...")
        for key, (name, value) in ours.items()
        if theirs[key] != value or value == "unknown"
    ]


# --- the fit


def refit(settings: params.Params, parent: RegisteredVersion, override: bool) -> dict[str, Any]:
    """Refit, judge, and promote on PROMOTE; returns the report.

    Raises:
        UserError: as `check_before_fit`, or the configuration cannot be fitted.
    """
    dataset = settings.dataset
    features, audit = check_before_fit(parent, settings, override)
    manifest = registry.read_manifest(parent)
    version = fit_on_all_events(parent, manifest, features, settings)
    case = GateCase(
        settings=settings, features=features, label=manifest["label"], candidate=registry.find_version(dataset, version),
        champion=parent, champion_label=manifest["label"], baseline=None, code=preconditions.code_state(), audit=audit,
        override=override, now_us=time.time_ns() // 1000, skew=skew_report.last(dataset),
    )  # fmt: skip
    return judgment.settle(dataset, version, judge_refit(case))


def fit_on_all_events(parent: RegisteredVersion, manifest: dict, features: Features, settings: params.Params) -> str:
    """Fit the configuration of the parent's manifest on all events, export it and register it; returns the version."""
    label, configuration, seed = manifest["label"], manifest["params"], manifest["seed"]
    devices = distributed.num_devices() if is_learned(configuration["name"]) else 1
    with tracking.training_run(label, configuration, features, settings) as run:
        result = fitting.fit(configuration, features, settings.train, seed, run.log_epoch, CHECKPOINTS, None, devices)
        run.tag(devices=str(devices), refit_of=parent.version)
        run.log_fit(result)
    fitted, folder = REFITS / "fitted" / label, REFITS / "artifacts" / label
    refit_of = {"version": parent.version, "artifact": parent.artifact}
    fitting.save_fit(
        fitted, result, {"label": label, "cut": FULL, "run_id": run.run_id, "seed": seed, "refit_of": refit_of}
    )
    facts = json.loads((fitted / "fit.json").read_text(encoding="utf-8"))
    with one_thread():
        export_artifact.export_artifact(
            folder, fitted / "weights.safetensors", facts, features, settings, SideTables.read()
        )
    return registry.register_version(parent.dataset, folder, run.run_id, {"label": label, "refit_of": parent.version})


# --- the checks of a refit


def judge_refit(case: GateCase) -> dict[str, Any]:
    """The report of a refit; the case has the refit as candidate, its parent as champion, and the features of all events."""
    found: dict[str, Any] = {"leakage_checks": len(case.audit["checks"])}
    with judgment.open_artifacts(case) as folders:
        manifests = {role: artifact.verify(folder) for role, folder in folders.items()}
        decision = _decide(case, folders, manifests, found)
    under = {
        "version": case.champion.version,
        "artifact": case.champion.artifact,
        "report": promotion.report_digest(case.champion),
    }
    artifacts = {role: judgment.describe_artifact(manifest) for role, manifest in manifests.items()}
    return judgment.build_report(case, decision, found) | {"under": under, "artifacts": artifacts}


def _decide(
    case: GateCase, folders: Mapping[str, Path], manifests: Mapping[str, dict], found: dict[str, Any]
) -> GateDecision:
    """Run the checks, cheap ones first, until one fails. Adds what they find to `found`."""
    policy = case.settings.gate
    if decision := preconditions.poor_index(manifests[CANDIDATE], policy):
        return decision
    recommenders = {role: Recommender.load(folder) for role, folder in folders.items()}
    parent, child = recommenders[CHAMPION], recommenders[CANDIDATE]
    if decision := preconditions.changed_answers(parent, child, case.champion.version):
        return decision
    found["golden_answers"] = len(parent.golden_cases())
    found["budgets"] = evidence.check_budgets(folders, recommenders, policy.budgets)
    if decision := verdict.broken_budget(found["budgets"]):
        return decision
    lists = recent_lists(case, recommenders)
    found["guard_rails"] = evidence.check_guard_rails(lists, case.features, policy.guard_rails)
    shares = overlap(lists[CHAMPION], lists[CANDIDATE])
    found["agreement"] = {
        "requests": len(shares),
        "overlap": float(shares.mean()) if len(shares) else 0.0,
        "bar": case.settings.retrain.refit_overlap,
    }
    return verdict.broken_guard_rail(found["guard_rails"]) or decide_by_agreement(case, found["agreement"])


def recent_lists(case: GateCase, recommenders: Mapping[str, Recommender]) -> dict[str, np.ndarray]:
    """Role -> (n, 10) lists of both models on the newest requests: rows of the catalog or -1."""
    settings, features = case.settings, case.features
    cases = {"next_item": newest_cases(features, settings.retrain.refit_requests)}
    events, users = pd.read_parquet(SPLIT / "events.parquet"), pd.read_parquet(INGESTED / "users.parquet")
    return {
        role: score_cases(one, features, cases, events, users, settings.train.eval_batch_size)["next_item"].lists
        for role, one in recommenders.items()
    }


def newest_cases(features: Features, count: int) -> EvaluationCases:
    """The next_item cases of the newest events, whatever the cut: the requests of the live page."""
    cases = next_item_cases(features.log, 0, features.description["until_us"])
    newest = np.argsort(cases.time, kind="stable")[-count:]
    return cases.take(np.sort(newest))


def overlap(parent: np.ndarray, child: np.ndarray) -> np.ndarray:
    """(m,) share of each non-empty list of the parent's (n, 10) lists that the child's list holds too."""
    shown = parent >= 0
    held = (parent[:, :, None] == child[:, None, :]).any(axis=2) & shown
    sizes = shown.sum(axis=1)
    return held.sum(axis=1)[sizes > 0] / sizes[sizes > 0]


def decide_by_agreement(case: GateCase, agreement: Mapping[str, Any]) -> GateDecision:
    """Promote a refit, unless its lists have too little in common with those of its parent, which were judged."""
    requests = f"{agreement['requests']:,} recent requests"
    if not agreement["requests"] or agreement["overlap"] < agreement["bar"]:
        reason = (
            f"its lists share {agreement['overlap']:.3f} of its parent's 10 items on {requests}; at least "
            f"{agreement['bar']:g} is required (retrain.refit_overlap)"
        )
        advice = "keep the parent, which serves; find out how the newest events differ from the older ones"
        return GateDecision(verdict.REJECT, reason, advice)
    reason = (
        f"refit of version {case.champion.version}, which the gate promoted, on all events until "
        f"{to_iso(case.features.cut_us)}; it recommends {agreement['overlap']:.0%} of its parent's items on {requests}"
    )
    return GateDecision(verdict.PROMOTE, reason, verdict.DEPLOY)


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.refit_full", description=__doc__.splitlines()[0])
    preconditions.add_override_option(parser)
    override = parser.parse_args(argv).override
    settings = params.load()
    target = promotion.serving_target(settings.dataset)
    parent = target.version
    if under := target.report.get("under"):
        print(f"nothing to do: {parent}, the champion, is a refit of {under['version']}")
        return 0
    if target.report["verdict"] == promotion.OVERRIDE_VERDICT:
        raise UserError(f"{parent} is champion by an override; only a version that passed the gate is refitted")
    report = refit(settings, parent, override)
    write_text(REPORT, json.dumps(report, indent=1, sort_keys=True))
    write_text(PAGE, report_page.page(report))
    print(report_page.summary(report, PAGE))
    return 0


if __name__ == "__main__":
    sys.exit(main())
