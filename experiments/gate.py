"""VERB gate: the best learned model against the champion, on the future; PROMOTE, HOLD, REJECT, INSUFFICIENT_DATA.

The first champion is the best cheap baseline, so that a fresh platform answers even when no learned model
earns its place yet.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from config import params
from config.command import UserError, exits_cleanly
from config.paths import ARTIFACTS, EXPERIMENTS, FEATURES, METRICS
from experiments import audit
from experiments.evaluation.comparison import best_on_validation
from experiments.evaluation.measure import read_metrics
from experiments.gating import judgment, preconditions, verdict
from experiments.gating.evidence import opponent
from experiments.gating.judgment import Question, policy_hash
from experiments.gating.report_page import page
from experiments.serving_skew import report as skew_record
from features import feature_files
from serving.deployment import registry
from training.models import artifact

ALLOW = "TIDEGATE_ALLOW_UNCOMMITTED"  # the same as --allow-uncommitted, for verbs that ask the gate on their way


def chosen(settings: params.Params, learned: bool) -> str | None:
    """The label that is best on validation, on both targets; the test window has no say."""
    measured = read_metrics(METRICS, settings.dataset)
    kept = [one for one in measured if one.label in settings.train.models]
    return best_on_validation(kept, learned)


def exported(label: str) -> Path:
    """Folder of a label's artifact.

    Raises:
        UserError: it has not been exported.
    """
    folder = ARTIFACTS / label
    if not (folder / artifact.MANIFEST).exists():
        raise UserError(f"{folder} is missing; run `dvc repro` first")
    return folder


def register(dataset: str, label: str) -> str:
    """The registered version of a label's artifact; the same artifact is registered once."""
    folder = exported(label)
    manifest = json.loads((folder / artifact.MANIFEST).read_text())
    try:
        return registry.create_version(dataset, folder, manifest["run_id"], {"label": label})
    except registry.RegistryError:  # its run is not here: the artifact was pulled, not trained
        return registry.create_version(dataset, folder, None, {"label": label})


def first_champion(settings: params.Params, label: str, override: bool) -> dict:
    """Make the best cheap baseline the champion of a platform that has none."""
    code = preconditions.state()
    decided = verdict.Decision(verdict.PROMOTE, "first: the best cheap baseline on validation", verdict.DEPLOY)
    if (refusal := preconditions.uncommitted(code)) and not override:
        decided = refusal
    version = register(settings.dataset, label)
    report = {
        "verdict": decided.verdict, "reason": decided.reason, "advice": decided.advice,
        "overrides": [f"judged with uncommitted code: {code.changed}"] if code.changed and override else [],
        "dataset": settings.dataset, "label": label, "against_version": None, "primary": settings.gate.primary,
        "policy": settings.gate.model_dump(mode="json"), "policy_hash": policy_hash(settings.gate), "evidence": {},
        "code": code._asdict(), "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }  # fmt: skip
    return settle(settings.dataset, version, report)


def judge(settings: params.Params, label: str, override: bool) -> dict:
    """Score candidate and champion now; promote on a PROMOTE. The report, also of an earlier equal look."""
    dataset = settings.dataset
    version = register(dataset, label)
    candidate = registry.find(dataset, version)
    features = feature_files.load(FEATURES / "test")
    target, instead = opponent(dataset, candidate, features)
    champion = target.version
    if candidate.version == champion.version:
        known = {"version": version, "again": True, "instead": instead}
        return target.report | known | {"overrides": overrides(dataset)}
    split_id = features.description["split_id"]
    seen = judgment.known(split_id, candidate.artifact, champion.artifact, policy_hash(settings.gate))
    if seen is not None and seen["verdict"] != verdict.PROMOTE:
        return seen | {"version": version, "again": True, "overrides": seen["overrides"] + overrides(dataset)}
    registry.challenge(dataset, version)
    baseline = chosen(settings, False)
    asked = Question(
        settings, features, label, candidate, champion, str(target.report.get("label", "")),
        exported(baseline) if baseline else None, preconditions.state(), audit.passed(settings), override,
        time.time_ns() // 1000, skew_record.last(dataset), instead,
    )  # fmt: skip
    return settle(dataset, version, judgment.judge(asked))


def settle(dataset: str, version: str, report: dict) -> dict:
    """Move the alias on a PROMOTE, note any other verdict on the version; the report with its version."""
    report = report | {"overrides": report["overrides"] + overrides(dataset)}
    if report["verdict"] == verdict.PROMOTE:
        registry.promote(dataset, version, report, page(report | {"version": version}))
    else:
        registry.note_verdict(dataset, version, report)
    return report | {"version": version}


def overrides(dataset: str) -> list[str]:
    """What stands without the gate's word while it judges, a line each."""
    loud = registry.standing_override(dataset)
    return [loud["line"]] if loud else []


def run(settings: params.Params, label: str | None, override: bool = False) -> list[dict]:
    """The reports of this run: the first champion's where there was none, then the candidate's."""
    reports = []
    if registry.settle(settings.dataset) is None:  # none, or one from before moves were signed
        baseline = chosen(settings, False)
        if baseline is None:
            raise UserError("params.yaml: train.models holds no baseline; the first champion must be one")
        reports.append(first_champion(settings, baseline, override))
        if reports[0]["verdict"] != verdict.PROMOTE:
            return reports  # without a champion there is nobody to be judged against
    label = label or chosen(settings, True)
    if label is not None:
        reports.append(judge(settings, label, override))
    return reports


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.gate", description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="the label to judge (default: the best learned one on validation)")
    parser.add_argument(
        "--refit",
        action="store_true",
        help="fit the champion's recipe on the candidate's data too: takes as long as a fit",
    )
    parser.add_argument(
        preconditions.ALLOW, dest="override", action="store_true", default=bool(os.environ.get(ALLOW)),
        help=f"judge although code or locks are changed and not committed; the report shows it ({ALLOW}=1 does the same)",
    )  # fmt: skip
    arguments = parser.parse_args(argv)
    settings = params.load()
    if arguments.refit:
        settings = settings.model_copy(update={"gate": settings.gate.model_copy(update={"refit": True})})
    for report in run(settings, arguments.model, arguments.override):
        (EXPERIMENTS / "gate.json").write_text(json.dumps(report, indent=1, sort_keys=True))
        (EXPERIMENTS / "gate.html").write_text(page(report))
        name = f"{report['label']} (version {report['version']})"
        for override in report.get("overrides", []):
            print(f"gate: OVERRIDE: {override}")
        if instead := report.get("instead"):
            print(f"gate: {instead}")
        again = " (decided before)" if report.get("again") else ""
        print(f"gate: {report['verdict']}{again}: {name}: {report['reason']} -> {EXPERIMENTS}/gate.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
