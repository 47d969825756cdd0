"""Fit the champion's configuration and its rivals on newer events, judge them, and deploy what passes.

Everything that the previous version of the dataset held may be learned from; only newer events judge. So nobody has
looked at the new holdout, and neither champion nor candidate was fitted on it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from config import params
from config.command import UserError, exits_cleanly
from config.paths import EXPERIMENTS, INGESTED, ROOT, SPLIT
from data import files
from data.columns import EVENT_TIME
from data.tables import microseconds
from data.times import to_iso
from experiments.orchestration import steps, workspace
from experiments.orchestration.steps import AlreadyRunningError, only_one
from experiments.orchestration.workspace import edited
from serving.deployment import promotion
from serving.deployment.promotion import PROMOTE
from serving.deployment.registry import read_manifest
from training.models.base import models

NOTE = EXPERIMENTS / "retrain.json"


# --- cuts


class RetrainCuts(NamedTuple):
    """Times in microseconds."""

    valid_start: int
    test_start: int
    end: int  # the last event


def choose_cuts(old_end_us: int, end_us: int) -> RetrainCuts:
    """Choose the cuts: the new events are the test part, and the validation part before them is as long.

    Raises:
        UserError: no event is new.
    """
    if end_us <= old_end_us:
        raise UserError(f"SOURCE holds no event after {to_iso(old_end_us)}, the end of the previous version")
    test_start = old_end_us + 1
    return RetrainCuts(2 * test_start - end_us - 1, test_start, end_us)


def previous_end(folder: Path, fit_until_us: int) -> int:
    """The last time that is not new: the end of the previous version, else of what the champion was fitted on.

    A run that was interrupted has already split the new version; its note holds the end of the previous one.
    """
    manifest, note = folder / SPLIT / "manifest.json", folder / NOTE
    if not manifest.exists():
        return fit_until_us - 1
    end = json.loads(manifest.read_text(encoding="utf-8"))["end_us"]
    begun = json.loads(note.read_text(encoding="utf-8")) if note.exists() else {}
    return begun["old_end_us"] if begun.get("end_us") == end else end


# --- configurations


def prepare_workspace(folder: Path, champion: dict[str, Any], cuts: RetrainCuts, candidates: list[str]) -> list[str]:
    """Write cuts and configurations into a workspace; returns the labels that it fits.

    Args:
        champion: the manifest of its artifact.
    """
    sections = params_sections(champion["label"], champion["params"])
    with edited(folder / "params.yaml") as settings:
        # As text: DVC cannot compare a YAML date.
        settings["split"] |= {"valid_start": to_iso(cuts.valid_start), "test_start": to_iso(cuts.test_start)}
        available = settings["train"]["models"]
        available |= sections
        for label in candidates:
            if label not in available:
                raise UserError(f"--candidates {label}: train.models holds {', '.join(available)}")
        wanted = {*sections, *candidates, *(label for label, one in available.items() if one["name"] == "popularity")}
        wanted |= {part for label in candidates for part in available[label].get("parts", [])}
        labels = [label for label in available if label in wanted]
    workspace.select_models(folder, labels)
    return labels


def params_sections(label: str, configuration: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Sections of train.models, by label, that fit a configuration again: its own, and those of a hybrid's parts.

    Values that the fit added (steps, weights, sizes) are left out: newer data brings its own. Where validation chose
    among several values, the section holds the chosen one.

    Raises:
        UserError: this code does not know the model.
    """
    name = configuration["name"]
    if name not in models():
        raise UserError(f"{label} is a {name!r}, which this code cannot fit; it knows {', '.join(models())}")
    parts = configuration.get("parts", {})
    sections = {key: section for part, inner in parts.items() for key, section in params_sections(part, inner).items()}
    own = {key: configuration[key] for key in models()[name].hyperparameters_type.model_fields if key in configuration}
    if parts:
        own["parts"] = list(parts)
    if "l2" in own and not isinstance(own["l2"], list):
        own["l2"] = [own["l2"]]
    return sections | {label: own}


def remove_other_measurements(folder: Path, labels: list[str]) -> None:
    """Remove measurements of models that are not fitted this time: they belong to a previous split."""
    for name in ("metrics", "rankings"):
        for path in (folder / EXPERIMENTS / name).glob("*"):
            if path.stem not in (*labels, "items"):
                path.unlink()


# --- the run


def retrain(arguments: argparse.Namespace, dataset: str) -> None:
    """Do everything from new events to the verdict and the deployment."""
    version = promotion.serving_target(dataset).version
    champion = read_manifest(version)
    columns, formats = workspace.parse_columns(arguments.columns), workspace.parse_formats(arguments)
    old_end_us = previous_end(workspace.HOME / dataset, champion["fit_until_us"])
    folder = workspace.make(
        arguments.source, arguments.users, arguments.items, columns, dataset, True, formats, arguments.no_consent
    )
    env = steps.environment()
    steps.step("ingest", "dvc", ["repro", "ingest"], folder, env)
    times = pd.read_parquet(folder / INGESTED / "events.parquet", columns=[EVENT_TIME])[EVENT_TIME]
    cuts = choose_cuts(old_end_us, int(microseconds(times).max()))
    candidates = arguments.candidates or [params.load(ROOT / "params.yaml").retrain.candidate]
    labels = prepare_workspace(folder, champion, cuts, candidates)
    print(
        f"champion {version} ({champion['label']}); fitting {', '.join(labels)} on events until "
        f"{to_iso(cuts.test_start)}, judged on events until {to_iso(cuts.end)}",
        flush=True,
    )
    (folder / NOTE).parent.mkdir(parents=True, exist_ok=True)
    files.write_text(folder / NOTE, json.dumps({"old_end_us": old_end_us, "end_us": cuts.end}))
    remove_other_measurements(folder, labels)
    steps.data_and_features(folder, env)
    steps.pipeline(folder, env)
    steps.step("gate", "experiments.gate", [], folder, env)
    steps.publish(folder, dataset)
    serve(folder, dataset, env, arguments.no_deploy)
    page = (folder / EXPERIMENTS / "gate.html").relative_to(ROOT)
    print(f"\n{steps.leaderboard(dataset)}\n\n{steps.verdict(folder)}\nreport: {page}")


def serve(folder: Path, dataset: str, env: dict[str, str], no_deploy: bool) -> None:
    """Deploy what the gate promoted, then its refit on all events if params.yaml asks for one.

    A refit takes as long as a fit and may be refused; until then, what was gated serves.
    """

    def deploy() -> None:
        if not no_deploy:
            steps.step("deploy", "serving.deploy", ["--dataset", dataset], ROOT, env)

    if not no_deploy:
        steps.step("fill the online store", "features.materialize", [], folder, env)
    deploy()
    if params.load(folder / "params.yaml").retrain.refit == "full" and steps.gate_report(folder)["verdict"] == PROMOTE:
        steps.step("refit on all events", "experiments.refit_full", [], folder, env)
        deploy()


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.retrain",
        description=__doc__,
        epilog=f"Exit code {os.EX_TEMPFAIL} if another retraining of this dataset runs (make prints Error "
        f"{os.EX_TEMPFAIL}, and exits with 2, as with any error).",
    )
    workspace.add(parser)
    parser.add_argument(
        "--candidates", nargs="+", metavar="LABEL", help="models of params.yaml that compete with the champion's"
    )
    parser.add_argument("--no-deploy", action="store_true", help="stop after the verdict: another machine serves")
    arguments = parser.parse_args(argv)
    if arguments.source is None:
        raise UserError("SOURCE is missing: the file or folder of all events, the new ones included")
    dataset = workspace.checked(arguments.name or workspace.name_of(arguments.source.expanduser().resolve()))
    try:
        with only_one(workspace.HOME / f"{dataset}.retrain.lock", f"a retraining of {dataset}"):
            retrain(arguments, dataset)
    except AlreadyRunningError as error:
        print(f"error: {error}", file=sys.stderr)
        return os.EX_TEMPFAIL
    return 0


if __name__ == "__main__":
    sys.exit(main())
