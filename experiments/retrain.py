"""VERB retrain: newer events of a data set that has a champion: its recipe and its rivals fitted anew, judged on what
came since, and rolled out if the gate says so.

The cuts are stated, never quantiles, which move as data grows: everything that an earlier version of the data set held
may be learned from, and only what came after it judges. So nobody has looked at this window, and neither champion nor
candidate was fitted on it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

from config import params
from config.command import UserError, exits_cleanly
from config.paths import EXPERIMENTS, INGESTED, ROOT, SPLIT
from data.times import to_iso
from experiments.gating import same_data_refit
from experiments.orchestration import model_selection, steps, workspace
from experiments.orchestration.steps import AlreadyRunningError, only_one
from experiments.orchestration.workspace import edited
from experiments.retraining.cuts import RetrainCuts, retrain_cuts
from serving.deployment import model_versions, registry
from serving.deployment.gate_report import PROMOTE
from training.models.artifact import MANIFEST

NOTE = EXPERIMENTS / "retrain.json"


class Champion(NamedTuple):
    """What serves now, and how it was made."""

    version: str
    label: str
    recipe: dict
    fit_until_us: int


def champion_of(dataset: str) -> Champion:
    """Raises UserError: the data set has none, or its manifest is gone."""
    version = registry.serving_target(dataset).version
    manifest = json.loads(model_versions.read(f"{version.source}/{MANIFEST}", f"{dataset} {version.version}"))
    return Champion(version.version, manifest["label"], manifest["params"], manifest["fit_until_us"])


def old_end_of(folder: Path, champion: Champion) -> int:
    """The last moment that is not new: the end of the version before, else of what the champion was fitted on.

    A call that was cut short has split the new version already: its note says where the one before ended.
    """
    before, note = folder / SPLIT / "manifest.json", folder / NOTE
    if not before.exists():
        return champion.fit_until_us - 1
    end = json.loads(before.read_text())["end_us"]
    begun = json.loads(note.read_text()) if note.exists() else {}
    return begun["old_end_us"] if begun.get("end_us") == end else end


def prepare(folder: Path, champion: Champion, cuts: RetrainCuts, candidates: list[str]) -> list[str]:
    """Write cuts and recipes into a workspace; the labels that it fits."""
    sections = same_data_refit.stated(champion.label, champion.recipe)
    with edited(folder / "params.yaml") as settings:
        # As text: DVC cannot compare a YAML date.
        settings["split"] |= {"valid_start": to_iso(cuts.valid_start), "test_start": to_iso(cuts.test_start)}
        models = settings["train"]["models"]
        models |= sections
        for label in candidates:
            if label not in models:
                raise UserError(f"--candidates {label}: train.models holds {', '.join(models)}")
        wanted = {*sections, *candidates, *(label for label, one in models.items() if one["name"] == "popularity")}
        wanted |= {part for label in candidates for part in models[label].get("parts", [])}
        labels = [label for label in models if label in wanted]
    model_selection.write(folder, labels)
    return labels


def forget_others(folder: Path, labels: list[str]) -> None:
    """Remove what was measured of models that are not fitted this time: it is of a split that is past."""
    for name in ("metrics", "rankings"):
        for path in (folder / EXPERIMENTS / name).glob("*"):
            if path.stem not in (*labels, "items"):
                path.unlink()


def newest_event(folder: Path) -> int:
    """Microseconds."""
    import pandas as pd

    times = pd.read_parquet(folder / INGESTED / "events.parquet", columns=["event_time"])["event_time"]
    return int(times.max().value // 1000)


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.retrain",
        description=__doc__.split("\n\n")[0],
        epilog=f"Exit code {os.EX_TEMPFAIL} where another retraining of this data set runs (make says Error "
        f"{os.EX_TEMPFAIL}, and ends with 2, as with any error).",
    )
    workspace.add(parser)
    parser.add_argument(
        "--candidates", nargs="+", metavar="LABEL", help="rivals of the champion's recipe, of params.yaml"
    )
    parser.add_argument("--valid-start", metavar="TIME", help="default: as long before the test part as that is")
    parser.add_argument("--test-start", metavar="TIME", help="default: where the version before ended")
    parser.add_argument("--no-deploy", action="store_true", help="end with the verdict: another machine serves")
    parser.add_argument("--dry-run", action="store_true", help="say what would be cut and fitted, and stop")
    return parser


def retrain(given: argparse.Namespace, dataset: str) -> None:
    """Everything from new events to the verdict, and what serves brought to what it says."""
    champion = champion_of(dataset)
    columns = workspace.parse_columns(given.columns)
    old_end = old_end_of(workspace.HOME / dataset, champion)
    folder = workspace.make(given.source, given.users, given.items, columns, dataset, renewed=True)
    env = steps.environment()
    steps.step("ingest", "dvc", ["repro", "ingest"], folder, env)
    cuts = retrain_cuts(old_end, newest_event(folder), given.valid_start, given.test_start)
    candidates = given.candidates or [params.load(ROOT / "params.yaml").retrain.candidate]
    labels = prepare(folder, champion, cuts, candidates)
    print(f"retrain: champion {dataset} {champion.version} ({champion.label}); learns until {to_iso(cuts.test_start)}, is "
          f"judged until {to_iso(cuts.end)}; fits {', '.join(labels)}", flush=True)  # fmt: skip
    if given.dry_run:
        return
    (folder / NOTE).parent.mkdir(parents=True, exist_ok=True)
    (folder / NOTE).write_text(json.dumps({"old_end_us": old_end, "end_us": cuts.end}))
    forget_others(folder, labels)
    judged(folder, dataset, env)
    serve(folder, dataset, env, given.no_deploy)
    print(f"\n{steps.leaderboard(dataset)}\n\n{steps.verdict(folder)}\nThe gate's report: "
          f"{(folder / EXPERIMENTS / 'gate.html').relative_to(ROOT)}")  # fmt: skip


def judged(folder: Path, dataset: str, env: dict[str, str]) -> None:
    """Fit, measure and gate what a workspace states."""
    steps.data_and_features(folder, env)
    steps.pipeline(folder, env)
    steps.step("gate", "experiments.gate", [], folder, env)
    steps.publish(folder, dataset)


def serve(folder: Path, dataset: str, env: dict[str, str], no_deploy: bool) -> None:
    """Bring what the gate promoted live, then its refit on all events where params.yaml wants one.

    A refit takes as long as a fit, and may be refused: until then, and then, what was gated serves.
    """

    def deploy() -> None:
        if not no_deploy:
            steps.step("deploy", "serving.deploy", ["--dataset", dataset], ROOT, env)

    if not no_deploy:
        steps.step("fill the online store", "features.materialize", [], folder, env)
    deploy()
    if params.load(folder / "params.yaml").retrain.refit == "full" and steps.verdict_of(folder) == PROMOTE:
        steps.step("refit on all events", "experiments.refit_full", [], folder, env)
        deploy()


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    given = options().parse_args(argv)
    if given.source is None:
        raise UserError("SOURCE is missing: the file or folder of all events, the new ones included")
    dataset = workspace.checked(given.name or workspace.name_of(given.source.expanduser().resolve()))
    try:
        with only_one(workspace.HOME / f"{dataset}.retrain.lock", f"a retraining of {dataset}"):
            retrain(given, dataset)
    except AlreadyRunningError as error:
        print(f"error: {error}", file=sys.stderr)
        return os.EX_TEMPFAIL
    return 0


if __name__ == "__main__":
    sys.exit(main())
