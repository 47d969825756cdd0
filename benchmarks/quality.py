"""The leaderboard of a data set from its preset and from nothing, beside the committed one; and how long it took."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from benchmarks._record import write
from config.command import UserError, exits_cleanly
from experiments import experiment
from experiments.evaluation.cases import PRIMARY, TARGETS
from experiments.orchestration import seeds, steps, workspace
from experiments.orchestration.steps import RESULTS

SUFFIX = "-quality"  # of the workspace


def committed(dataset: str) -> dict:
    """The result file that is to be reproduced.

    Raises:
        UserError: there is none of this data set.
    """
    path = RESULTS / f"{dataset}.json"
    if not path.exists():
        raise UserError(f"experiments/results/{dataset}.json does not exist; NAME says which leaderboard to reproduce")
    return json.loads(path.read_text())


def reproduce(given: argparse.Namespace, dataset: str, names: list[str], scratch: Path) -> dict:
    """Run the pipeline in a workspace and with a cache that hold nothing; its result file."""
    shutil.rmtree(workspace.HOME / f"{dataset}{SUFFIX}", ignore_errors=True)
    os.environ["TIDEGATE_DVC_CACHE"] = str(scratch / "cache")
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{scratch}/mlflow.db"
    given.name = f"{dataset}{SUFFIX}"
    folder = workspace.workspace_of(given)
    assert folder is not None
    experiment.prepare(folder, names)
    env = steps.environment()
    steps.data_and_features(folder, env)
    steps.pipeline(folder, env)
    return json.loads((folder / "experiments/results" / f"{given.name}.json").read_text())


def beside(now: dict, then: dict) -> list[dict]:
    """One row a model and target: NDCG@10 now and as committed, and whether now lies in the committed interval."""
    rows = []
    for label, model in now["models"].items():
        for target in TARGETS:
            old = then["models"].get(label, {}).get("targets", {}).get(target, {}).get("metrics", {}).get(PRIMARY)
            new = model["targets"][target]["metrics"][PRIMARY]
            if old is not None:
                rows.append({"model": label, "target": target, "now": new["mean"], "committed": old["mean"],
                             "inside": old["low"] <= new["mean"] <= old["high"]})  # fmt: skip
    return rows


def report(rows: list[dict]) -> str:
    lines = [f"{'':<18}{'target':<8}  {'now':>7}  {'committed':>9}  {'difference':>10}"]
    for row in rows:
        outside = "" if row["inside"] else "  outside the committed interval"
        lines.append(
            f"{row['model']:<18}{row['target']:<8}  {row['now']:>7.4f}  {row['committed']:>9.4f}  "
            f"{row['now'] - row['committed']:>+10.4f}{outside}"
        )
    return "\n".join(lines)


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    workspace.add(parser)
    parser.add_argument(
        "--preset", help="of experiments/presets, several with commas (default: those found on the data set)"
    )
    return parser


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    given = options().parse_args(argv)
    if given.source is None:
        print("quality: skipped, it reproduces a leaderboard of data of yours: make bench-quality SOURCE=ml-100k")
        return 0
    if not given.source.exists():
        raise UserError(f"SOURCE: {given.source} does not exist")
    dataset = given.name or workspace.name_of(given.source.expanduser().resolve())
    then, begun = committed(dataset), time.perf_counter()
    names = given.preset.split(",") if given.preset else seeds.found_on(dataset)
    for name in names:
        seeds.read(name)  # refused now, not after the features
    scratch = Path(tempfile.mkdtemp(prefix="tidegate-quality-"))
    try:
        now = reproduce(given, dataset, names, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    seconds = time.perf_counter() - begun
    if now["split_id"] != then["split_id"]:
        raise UserError(f"quality: {dataset} was split as {now['split_id']}, the committed one as {then['split_id']}")
    rows = beside(now, then)
    path = write("quality", {
        "dataset": dataset, "split_id": now["split_id"], "presets": names, "seconds": round(seconds, 1), "rows": rows,
        "committed_at": then["commit"], "reference": "the committed result file",
    })  # fmt: skip
    inside = sum(row["inside"] for row in rows)
    print(f"\n{report(rows)}\n{inside} of {len(rows)} figures lie in the committed 95% intervals")
    print(f"quality: {dataset} from nothing in {seconds / 60:.1f} minutes -> {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
