"""Training speed: seconds that two_tower and sasrec need to become as good as RecTools' SASRec, against its own."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks._learning_curve import LearningCurve, model_curve, rectools_curve
from benchmarks._record import write
from config import params
from config.command import UserError, exits_cleanly
from config.paths import FEATURES
from experiments.orchestration import steps, workspace
from features import feature_files
from training import validation

MODELS = ("two_tower", "sasrec")
SUFFIX = "-speed"  # of the workspace
COUNTED = (
    "Seconds of fitting, from events in memory to the end of an epoch, with set-up, without imports and validation.\n"
    "NDCG@10 of next_item, full catalog, the same cases between the cuts valid and test, one seed. RecTools has the sizes\n"
    "of our sasrec, its own softmax loss and defaults; it reads the last events of each user, our models read all."
)


def prepare_workspace(arguments: argparse.Namespace) -> Path:
    """The workspace of the source, with its features at the cut `valid`.

    It is separate from that of a demo, which may have tuned settings.
    """
    arguments.name = arguments.name or f"{workspace.name_of(arguments.source.expanduser().resolve())}{SUFFIX}"
    folder = workspace.workspace_of(arguments)
    assert folder is not None
    steps.step("data and features", "dvc", ["repro", "featurize"], folder, steps.environment())
    return folder


def report(curves: dict[str, LearningCurve], mark: float, reference_seconds: float) -> str:
    """A table: how long each model trained, its best NDCG@10, when it reached the mark, how fast it was.

    Args:
        reference_seconds: of RecTools for all its epochs.
    """
    row = "{:<17}{:>7}  {:>8}  {:>8}  {:>9}  {:>6}  {:>8}  {:>8}"
    lines = [row.format("", "epochs", "seconds", "best", "s to mark", "ratio", "epochs/s", "events/s")]
    for name, curve in curves.items():
        figures = curve.figures(mark)
        to_mark = figures["seconds_to_mark"]
        reached = (f"{to_mark:.1f}", f"{reference_seconds / to_mark:.2f}") if to_mark else ("never", "-")
        lines.append(
            row.format(
                name,
                figures["epochs"],
                f"{figures['seconds']:.1f}",
                f"{max(curve.ndcg):.4f}",
                *reached,
                f"{figures['epochs_per_second']:.3f}",
                f"{figures['events_per_second']:,}",
            )
        )
    lines.append(
        f"Mark: NDCG@10 {mark:.4f}, RecTools after its last epoch. Ratio: its {reference_seconds:.1f} s / seconds to mark."
    )
    return "\n".join([*lines, COUNTED])


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    workspace.add(parser)
    parser.add_argument("--epochs", type=int, default=16, help="of RecTools (default: %(default)s)")
    parser.add_argument("--cases", type=int, default=4000, help="ranked after each epoch (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each model (default: %(default)s)")
    arguments = parser.parse_args(argv)
    for name in ("epochs", "cases", "threads"):
        if getattr(arguments, name) < 1:
            raise UserError(f"--{name} is {getattr(arguments, name)}; expected at least 1")
    if arguments.source is None:
        print("skipped training: it trains on the data of a source: make bench-training SOURCE=events.csv")
        return 0
    import torch  # here, so that config.command has set how threads wait

    torch.set_num_threads(arguments.threads)
    folder = prepare_workspace(arguments)
    settings, features = params.load(folder / "params.yaml"), feature_files.load_features(folder / FEATURES / "valid")
    cases = validation.sample(validation.cases(features)["next_item"], arguments.cases, settings.seed)
    reference, versions = rectools_curve(features, cases, settings, arguments.epochs, arguments.threads)
    mark, seconds = reference.ndcg[-1], reference.seconds[-1]
    print(f"\nmark: NDCG@10 {mark:.4f}, RecTools' SASRec after epoch {arguments.epochs}\n", flush=True)
    ours = {label: model_curve(label, features, settings, arguments.cases, mark) for label in MODELS}
    curves = {f"RecTools {versions['rectools']}": reference} | ours
    to_mark = {label: curve.seconds_to(mark) for label, curve in ours.items()}
    figures = {
        "dataset": settings.dataset.removesuffix(SUFFIX),
        "split_id": features.description["split_id"],
        "cases": len(cases),
        "threads": arguments.threads,
        "mark": mark,
        "versions": versions,
        "counted": COUNTED,
        "ratio": {label: taken and round(seconds / taken, 3) for label, taken in to_mark.items()},
        "models": {label: curve.figures(mark) for label, curve in curves.items()},
    }
    path = write("training", figures)
    print(f"\n{report(curves, mark, seconds)}\nwritten to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
