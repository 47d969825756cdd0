"""Training speed: the seconds that two_tower and sasrec need to become as good as RecTools' SASRec, beside its own."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks import _rectools, _training_curve
from benchmarks._record import write
from benchmarks._training_curve import LearningCurve
from config import params
from config.command import UserError, exits_cleanly
from config.paths import FEATURES
from experiments.orchestration import steps, workspace
from features import feature_files
from training import validation

OURS = ("two_tower", "sasrec")
SUFFIX = "-speed"  # of the workspace
COUNTED = (
    "Counted for all: fitting, from events in memory to the end of an epoch, set-up included; not counted: imports, "
    "validation.\nNDCG@10 of `next_item`, full catalogue, on the same cases between the cuts valid and test; one seed. "
    "RecTools: our sasrec's\nsizes, its own softmax loss and defaults; it reads each user's last events, we read all."
)


def features_of(given: argparse.Namespace) -> Path:
    """The workspace of the source with its features at the cut `valid`.

    A workspace of its own, whose settings are those of the project: that of a demo may hold tuned ones.
    """
    given.name = given.name or f"{workspace.name_of(given.source.expanduser().resolve())}{SUFFIX}"
    folder = workspace.workspace_of(given)
    assert folder is not None
    steps.step("data and features", "dvc", ["repro", "featurize@valid"], folder, steps.environment())
    return folder


def line(name: str, curve: LearningCurve, mark: float, theirs: float) -> str:
    """One row of the table; `theirs` is how long RecTools took for all its epochs."""
    found = curve.figures(mark)
    reached = found["seconds_to_mark"]
    told = f"{reached:>9.1f}  {theirs / reached:>6.2f}" if reached else f"{'never':>9}  {'-':>6}"
    return (
        f"{name:<17}{found['epochs']:>7}  {found['seconds']:>8.1f}  {max(curve.ndcg):>8.4f}  {told}  "
        f"{found['epochs_per_second']:>8.3f}  {found['events_per_second']:>8,}"
    )


def report(curves: dict[str, LearningCurve], mark: float, theirs: float) -> str:
    """The table: how long each trained, how good it became, when it reached the mark, how fast it went."""
    head = (
        f"{'':<17}{'epochs':>7}  {'seconds':>8}  {'best':>8}  {'s to mark':>9}  {'ratio':>6}  "
        f"{'epochs/s':>8}  {'events/s':>8}"
    )
    rows = [line(name, curve, mark, theirs) for name, curve in curves.items()]
    told = f"Mark: NDCG@10 {mark:.4f}, RecTools' after its last epoch. Ratio: its {theirs:.1f} s over seconds to mark."
    return "\n".join([head, *rows, told, COUNTED])


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    workspace.add(parser)
    parser.add_argument("--epochs", type=int, default=16, help="of RecTools (default: %(default)s)")
    parser.add_argument("--cases", type=int, default=4000, help="ranked after each epoch (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each model (default: %(default)s)")
    return parser


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    given = options().parse_args(argv)
    for name in ("epochs", "cases", "threads"):
        if getattr(given, name) < 1:
            raise UserError(f"--{name} is {getattr(given, name)}; expected at least 1")
    if given.source is None:
        print("training: skipped, it trains on data of yours: make bench-training SOURCE=events.csv")
        return 0
    import torch

    torch.set_num_threads(given.threads)
    folder = features_of(given)
    settings, features = params.load(folder / "params.yaml"), feature_files.load(folder / FEATURES / "valid")
    cases = validation.sample(validation.cases(features)["next_item"], given.cases, settings.seed)
    recipe = _training_curve.recipe_of("sasrec", settings)
    theirs, versions = _rectools.curve_of(
        features, cases, recipe, given.epochs, given.threads, settings.seed, settings.train.eval_batch_size
    )
    mark, name = theirs.ndcg[-1], f"RecTools {versions['rectools']}"
    print(f"\nthe mark: NDCG@10 {mark:.4f}, RecTools' SASRec after epoch {given.epochs}\n", flush=True)
    ours = {label: _training_curve.curve_of(label, features, settings, given.cases, mark) for label in OURS}
    curves = {name: theirs} | ours
    path = write("training", {
        "dataset": settings.dataset.removesuffix(SUFFIX), "split_id": features.description["split_id"],
        "cases": len(cases), "threads": given.threads, "mark": mark, "versions": versions, "counted": COUNTED,
        "ratio": {
            label: (took := curve.seconds_to(mark)) and round(theirs.seconds[-1] / took, 3)
            for label, curve in ours.items()
        },
        "models": {label: curve.figures(mark) for label, curve in curves.items()},
    })  # fmt: skip
    print(f"\n{report(curves, mark, theirs.seconds[-1])}\n-> {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
