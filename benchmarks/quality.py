"""Reproduce a committed leaderboard from its presets, with empty workspace and caches, and compare the numbers."""

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
from experiments.evaluation.cases import PRIMARY, TARGETS
from experiments.orchestration import steps, workspace
from experiments.orchestration.steps import RESULTS

SUFFIX = "-quality"  # of the workspace
ROW = "{:<18}{:<10}  {:>7}  {:>9}  {:>10}{}"


def committed_result(dataset: str) -> dict:
    """The result file to reproduce.

    Raises:
        UserError: the dataset has none.
    """
    path = RESULTS / f"{dataset}.json"
    if not path.exists():
        raise UserError(
            f"experiments/results/{dataset}.json does not exist; choose the leaderboard to reproduce with NAME"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def reproduce(arguments: argparse.Namespace, dataset: str, names: list[str], scratch: Path) -> dict:
    """Run the pipeline in an empty workspace with an empty cache and return its result file."""
    shutil.rmtree(workspace.HOME / f"{dataset}{SUFFIX}", ignore_errors=True)
    os.environ["TIDEGATE_DVC_CACHE"] = str(scratch / "cache")
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{scratch}/mlflow.db"
    arguments.name = f"{dataset}{SUFFIX}"
    folder = workspace.workspace_of(arguments)
    assert folder is not None
    workspace.prepare(folder, names)
    env = steps.environment()
    steps.data_and_features(folder, env)
    steps.pipeline(folder, env)
    return json.loads((folder / "experiments/results" / f"{arguments.name}.json").read_text(encoding="utf-8"))


def compare_results(now: dict, committed: dict) -> list[dict]:
    """One row per model and target: NDCG@10 now and as committed, and whether now lies in the committed interval."""
    rows = []
    for label in [label for label in now["models"] if label in committed["models"]]:
        for target in TARGETS:
            new, old = (result["models"][label]["targets"][target]["metrics"][PRIMARY] for result in (now, committed))
            inside = old["low"] <= new["mean"] <= old["high"]
            row = {"model": label, "target": target, "now": new["mean"], "committed": old["mean"], "inside": inside}
            rows.append(row)
    return rows


def report(rows: list[dict]) -> str:
    """The rows as a table for the terminal."""
    lines = [ROW.format("", "target", "now", "committed", "difference", "")]
    for row in rows:
        numbers = f"{row['now']:.4f}", f"{row['committed']:.4f}", f"{row['now'] - row['committed']:+.4f}"
        outside = "" if row["inside"] else "  outside the committed interval"
        lines.append(ROW.format(row["model"], row["target"], *numbers, outside))
    return "\n".join(lines)


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    workspace.add(parser)
    parser.add_argument(
        "--preset", help="of experiments/presets, several with commas (default: those chosen on the dataset)"
    )
    arguments = parser.parse_args(argv)
    if arguments.source is None:
        print("skipped quality: it reproduces the leaderboard of a source: make bench-quality SOURCE=ml-100k")
        return 0
    if not arguments.source.exists():
        raise UserError(f"SOURCE: {arguments.source} does not exist")
    dataset = arguments.name or workspace.name_of(arguments.source.expanduser().resolve())
    committed, started = committed_result(dataset), time.perf_counter()
    names = arguments.preset.split(",") if arguments.preset else workspace.presets_of(dataset)
    for name in names:
        workspace.read_preset(name)  # an unknown preset is refused before any work
    with tempfile.TemporaryDirectory(prefix="tidegate-quality-") as scratch:
        now = reproduce(arguments, dataset, names, Path(scratch))
    seconds = time.perf_counter() - started
    if now["split_id"] != committed["split_id"]:
        raise UserError(
            f"quality: the split of {dataset} is {now['split_id']}, that of the committed result {committed['split_id']}"
        )
    rows = compare_results(now, committed)
    figures = {
        "dataset": dataset,
        "split_id": now["split_id"],
        "presets": names,
        "seconds": round(seconds, 1),
        "rows": rows,
        "committed_at": committed["commit"],
        "reference": "the committed result file",
    }
    inside = sum(row["inside"] for row in rows)
    print(f"\n{report(rows)}\n{inside} of {len(rows)} figures lie in the committed 95% intervals")
    print(f"reproduced {dataset} in {seconds / 60:.1f} minutes; written to {write('quality', figures, dataset)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
