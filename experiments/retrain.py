"""Fit the champion's configuration and its rivals on newer events, judge them, and deploy what passes.

Everything that the previous version of the dataset held may be learned from; only newer events judge.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from config import params
from config.command import UserError, exits_cleanly
from config.paths import EXPERIMENTS, ROOT
from data.times import to_iso
from experiments.orchestration import steps, workspace
from experiments.orchestration.steps import AlreadyRunningError, only_one
from experiments.retraining import new_events
from serving.deployment.promotion import PROMOTE


def options() -> argparse.ArgumentParser:
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
    return parser


def retrain(arguments: argparse.Namespace, dataset: str) -> None:
    """Do everything from new events to the verdict and the deployment."""
    champion = new_events.read_champion(dataset)
    columns = workspace.parse_columns(arguments.columns)
    old_end_us = new_events.previous_end(workspace.HOME / dataset, champion)
    folder = workspace.make(arguments.source, arguments.users, arguments.items, columns, dataset, renewed=True)
    env = steps.environment()
    steps.step("ingest", "dvc", ["repro", "ingest"], folder, env)
    cuts = new_events.choose_cuts(old_end_us, new_events.newest_event(folder))
    candidates = arguments.candidates or [params.load(ROOT / "params.yaml").retrain.candidate]
    labels = new_events.prepare_workspace(folder, champion, cuts, candidates)
    print(
        f"champion {dataset} {champion.version} ({champion.label}); fitting {', '.join(labels)} on events until "
        f"{to_iso(cuts.test_start)}, judged on events until {to_iso(cuts.end)}",
        flush=True,
    )
    new_events.write_note(folder, old_end_us, cuts)
    new_events.remove_other_measurements(folder, labels)
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
    arguments = options().parse_args(argv)
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
