"""VERB refit_full: the champion's recipe fitted once more, on all events, so that the newest are not wasted.

Nothing later is left to judge it, so it serves under the report by which the gate promoted its parent: same recipe,
seed, code and data set version, sound by every check that needs no holdout, and with lists that agree with the parent's.
The next gate judges candidates against the parent wherever the refit has seen the window.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import Any

import torch

from config import params
from config.command import UserError, exits_cleanly
from config.paths import CHECKPOINTS, EXPERIMENTS, FEATURES, FITTED, REFITS, SPLIT
from data.products import read_json
from experiments import audit, gate
from experiments.gating import preconditions
from experiments.gating.judgment import Question
from experiments.gating.preconditions import Checkout
from experiments.gating.report_page import page
from experiments.gating.verdict import Decision
from experiments.retraining import refit_checks
from experiments.serving_skew import report as skew_record
from features import feature_files, featurize
from features.feature_files import Features
from features.featurize import FULL
from serving import export
from serving.artifact.item_tables import Sides
from serving.deployment import emergency_override, gate_report, model_versions, registry
from serving.deployment.registry import Target
from training import distributed, tracking, train
from training.train import build_is_learned, fit

REPORT = EXPERIMENTS / "refit.json"


def promoted(dataset: str) -> Target:
    """The champion, which the gate must have promoted.

    Raises:
        RegistryError: nothing may serve.
        UserError: it stands by an override, so that no report is there to serve under.
    """
    target = registry.serving_target(dataset)
    if target.report["verdict"] == emergency_override.VERDICT:
        raise UserError(f"{dataset} {target.version.version} is champion by an override: only what passed is refitted")
    return target


def admitted(parent: Target, settings: params.Params, code: Checkout, override: bool) -> tuple[Features, dict]:
    """The features of all events, and the audit that they passed: what must hold before a fit is worth its time.

    Raises:
        UserError: code is not committed, something leaks or is served otherwise than it is fitted, or code, lock, data or settings are not the parent's.
    """
    uncommitted, measured = preconditions.uncommitted(code), skew_record.last(settings.dataset)
    _heed(None if override else uncommitted)
    _heed(preconditions.skewed(measured, settings.gate))
    if lines := strangers(parent, settings):
        name = f"{parent.version.dataset} {parent.version.version}"
        raise UserError(f"a refit of {name} cannot be made here: {'; '.join(lines)}; {refit_checks.ADVICE}")
    whole = audit.passed(settings)
    _heed(preconditions.leaking(whole))
    if featurize.main(["--cut", FULL]):
        raise UserError("the features of all events could not be made; the reason stands above")
    audited = audit.of_full(settings) | {"audited": whole["audited"]}
    _heed(preconditions.leaking(audited))
    return feature_files.load(FEATURES / FULL), audited


def _heed(refusal: Decision | None) -> None:
    if refusal is not None:
        raise UserError(f"{refusal.reason}; {refusal.advice}")


def strangers(parent: Target, settings: params.Params) -> list[str]:
    """How code, lock, data and settings here differ from those of the parent, a line each."""
    version, split = parent.version, read_json(SPLIT / "manifest.json", "python -m data.split")
    config = model_versions.read(f"{version.source}/config.json", f"{version.dataset} {version.version}")
    now = refit_checks.at_hand(split, settings)
    known = {key: told for key, told in (refit_checks.OF_MANIFEST | refit_checks.OF_CONFIG).items() if key in now}
    return refit_checks.departures(model_versions.stored_manifest(version) | json.loads(config), now, known)


def refit(parent: Target, features: Features, settings: params.Params) -> str:
    """Fit the parent's recipe on all events, export it and register it; the version's number.

    Raises:
        UserError: the parent does not state its seed, or the recipe cannot be fitted.
    """
    version, manifest = parent.version, model_versions.stored_manifest(parent.version)
    label, recipe, seed = manifest["label"], manifest["params"], manifest.get("seed")
    if seed is None:
        raise UserError(f"{version.dataset} {version.version} does not state its seed; fit, export and gate it again")
    lineage = {"version": version.version, "artifact": version.artifact}
    number = distributed.stated() if build_is_learned(recipe) else 1
    with tracking.training_run(label, recipe, features, settings) as run:
        result = fit(recipe, features, settings.train, seed, run.log_epoch, CHECKPOINTS, None, number)
        run.tag(devices=str(number), refit_of=version.version)
        run.log_fit(result)
    fitted = FITTED / label / FULL
    facts = {"label": label, "cut": FULL, "run_id": run.run_id, "seed": seed, "refit_of": lineage}
    train.write(fitted, result, facts)
    folder = REFITS / label
    torch.set_num_threads(1)
    written = json.loads((fitted / "fit.json").read_text())
    export.write(folder, fitted / "weights.safetensors", written, features, settings, Sides.read())
    return registry.create_version(version.dataset, folder, run.run_id, {"label": label, "refit_of": version.version})


def run(settings: params.Params, parent: Target, override: bool) -> dict[str, Any]:
    """Refit, judge, and promote on a PROMOTE; the report.

    Raises:
        UserError: as `admitted` and `refit` say.
    """
    code, dataset = preconditions.state(), settings.dataset
    features, audited = admitted(parent, settings, code, override)
    version = refit(parent, features, settings)
    under = {
        "version": parent.version.version,
        "artifact": parent.version.artifact,
        "report": gate_report.digest(parent.version),
    }
    label = str(model_versions.stored_manifest(parent.version)["label"])
    asked = Question(
        settings, features, label, registry.find(dataset, version), parent.version, label, None, code, audited, override,
        time.time_ns() // 1000, skew_record.last(dataset),
    )  # fmt: skip
    return gate.settle(dataset, version, refit_checks.judge(asked, under))


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.refit_full", description=__doc__.split("\n\n")[0])
    parser.add_argument(
        preconditions.ALLOW, dest="override", action="store_true", default=bool(os.environ.get(gate.ALLOW)),
        help=f"although code or locks are changed and not committed; the report shows it ({gate.ALLOW}=1 does the same)",
    )  # fmt: skip
    override = parser.parse_args(argv).override
    settings = params.load()
    parent = promoted(settings.dataset)
    name = f"{settings.dataset} {parent.version.version}"
    if under := parent.report.get("under"):
        print(f"refit_full: nothing to do: {name}, the champion, is a refit of {under['version']}")
        return 0
    report = run(settings, parent, override)
    REPORT.write_text(json.dumps(report, indent=1, sort_keys=True))
    REPORT.with_suffix(".html").write_text(page(report))
    told = f"{report['label']} (version {report['version']}, a refit of {parent.version.version})"
    print(f"refit_full: {report['verdict']}: {told}: {report['reason']} -> {REPORT.with_suffix('.html')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
