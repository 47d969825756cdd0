"""VERB gate: the best learned model against the champion, on the future; PROMOTE, HOLD, REJECT, INSUFFICIENT_DATA.

The first champion is the best cheap baseline, so that a fresh platform answers even when no learned model
earns its place yet.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

import params
from command import UserError, exits_cleanly
from data.instants import to_iso
from experiments import evidence, ledger, verdict
from experiments.comparison import best_on_validation
from experiments.gate_page import page
from experiments.measured import read_metrics
from features import store
from serving import registry
from training.models import artifact

ARTIFACTS = Path("serving/out/artifacts")
OUT = Path("experiments/out")


def chosen(settings: params.Params, learned: bool) -> str | None:
    """The label that is best on validation, on both targets; the test window has no say."""
    measured = read_metrics(OUT / "metrics", settings.dataset)
    kept = [one for one in measured if one.label in settings.train.models]
    return best_on_validation(kept, learned)


def register(dataset: str, label: str) -> str:
    """The registered version of a label's artifact; the same artifact is registered once."""
    folder = ARTIFACTS / label
    if not (folder / artifact.MANIFEST).exists():
        raise UserError(f"{folder} is missing; run `dvc repro` first")
    manifest = json.loads((folder / artifact.MANIFEST).read_text())
    try:
        return registry.create_version(dataset, folder, manifest["run_id"], {"label": label})
    except registry.RegistryError:  # its run is not here: the artifact was pulled, not trained
        return registry.create_version(dataset, folder, None, {"label": label})


def first_champion(settings: params.Params, label: str) -> dict:
    """Make the best cheap baseline the champion of a platform that has none."""
    version = register(settings.dataset, label)
    report = _report(settings, verdict.PROMOTE, "first: the best cheap baseline on validation", {}, label, None)
    registry.promote(settings.dataset, version, report, page(report))
    return report | {"version": version}


def judge(settings: params.Params, label: str) -> dict:
    """Score candidate and champion now; promote on a PROMOTE. The report, also of an earlier equal look."""
    dataset, policy = settings.dataset, settings.gate
    champion = registry.serving_target(dataset).version
    version = register(dataset, label)
    candidate = registry.find(dataset, version)
    if candidate.version == champion.version:
        report = registry.serving_target(dataset).report
        return report | {"version": version, "again": True}
    features = store.load("features/out/test")
    split_id = features.description["split_id"]
    seen = ledger.known(split_id, candidate.artifact, champion.artifact, policy.model_dump())
    if seen is not None and seen["verdict"] != verdict.PROMOTE:
        return seen | {"version": version, "again": True}
    registry.challenge(dataset, version)
    looks = len(ledger.entries(split_id)) + 1
    scratch = Path(tempfile.mkdtemp(prefix="tidegate-gate-"))
    try:
        ours, theirs = (
            registry.download(dataset, one.version, _made(scratch / one.version)) for one in (candidate, champion)
        )
        if fault := verdict.index_fault(artifact.verify(ours), policy):
            report = _report(settings, verdict.REJECT, fault, {}, label, champion.version)
            registry.note_verdict(dataset, version, report)
            return report | {"version": version}  # nobody looked at the window, so the ledger counts no look
        found = evidence.compare(
            ours, theirs, features, pd.read_parquet("data/out/split/events.parquet"),
            pd.read_parquet("data/out/ingest/users.parquet"), settings.train.batch_cases, settings.seed,
            settings.evaluate.resamples, verdict.level(policy, looks),
        )  # fmt: skip
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    outcome, reason = verdict.decide(found["targets"], policy)
    report = _report(settings, outcome, reason, found, label, champion.version)
    report |= {"split_id": split_id, "looks": looks, "window_start": to_iso(found["start_us"])}
    ledger.append(
        {"split_id": split_id, "candidate": candidate.artifact, "champion": champion.artifact,
         "policy": policy.model_dump(), "date": report["date"], "report": report}
    )  # fmt: skip
    if outcome == verdict.PROMOTE:
        registry.promote(dataset, version, report, page(report))
    else:
        registry.note_verdict(dataset, version, report)
    return report | {"version": version}


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _report(settings, outcome, reason, found, label, champion) -> dict:
    return {
        "verdict": outcome,
        "reason": reason,
        "dataset": settings.dataset,
        "label": label,
        "against_version": champion,
        "primary": settings.gate.primary,
        "policy": settings.gate.model_dump(),
        "evidence": found,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def run(settings: params.Params, label: str | None) -> list[dict]:
    """The reports of this run: the first champion's where there was none, then the candidate's."""
    reports = []
    if registry.aliased(settings.dataset, registry.CHAMPION) is None:
        baseline = chosen(settings, False)
        if baseline is None:
            raise UserError("params.yaml: train.models holds no counted model; the first champion must be one")
        reports.append(first_champion(settings, baseline))
    label = label or chosen(settings, True)
    if label is not None:
        reports.append(judge(settings, label))
    return reports


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.gate", description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="the label to judge (default: the best learned one on validation)")
    arguments = parser.parse_args(argv)
    settings = params.load()
    for report in run(settings, arguments.model):
        (OUT / "gate.json").write_text(json.dumps(report, indent=1, sort_keys=True))
        (OUT / "gate.html").write_text(page(report))
        name = f"{report['label']} (version {report['version']})"
        again = " (decided before)" if report.get("again") else ""
        print(f"gate: {report['verdict']}{again}: {name}: {report['reason']} -> {OUT}/gate.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
