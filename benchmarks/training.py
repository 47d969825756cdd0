"""Training speed: seconds that two_tower and sasrec need to become as good as RecTools' SASRec, against its own.

RecTools has its own environment, is fitted on the same events and measured by our metric on the same cases.

Shapes: n cases, k list length.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks._record import write
from config import params
from config.command import UserError, exits_cleanly
from config.paths import BENCHMARKS, FEATURES, ROOT
from experiments.orchestration import steps, workspace
from features import feature_files
from features.feature_files import Features
from features.ragged import ranges, row_numbers
from features.sequences import EvaluationCases, InteractionLog
from features.vocabulary import PAD
from training import validation
from training.fitting import fit
from training.metrics import NOT_RANKED, TrueRanks, ndcg
from training.model_factory import build_model

MODELS = ("two_tower", "sasrec")
SUFFIX = "-speed"  # of the workspace
RECTOOLS = BENCHMARKS / "rectools"  # its environment
K = 100
# Our parameter -> RecTools' name. Its other parameters (batches of 128 users, Adam at 0.001) keep its defaults.
RECTOOLS_PARAMETERS = {
    "embedding_dim": "n_factors",
    "num_layers": "n_blocks",
    "num_heads": "n_heads",
    "max_history": "session_max_len",
    "dropout": "dropout_rate",
}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
COUNTED = (
    "Seconds of fitting, from events in memory to the end of an epoch, with set-up, without imports and validation.\n"
    "NDCG@10 of next_item, full catalog, the same cases between the cuts valid and test, one seed. RecTools has the sizes\n"
    "of our sasrec, its own softmax loss and defaults; it reads the last events of each user, our models read all."
)
ROW = "{:<17}{:>7}  {:>8}  {:>8}  {:>9}  {:>6}  {:>8}  {:>8}"


@dataclass
class LearningCurve:
    """One entry per epoch."""

    epoch_events: int  # that the model reads per epoch
    # Of fitting up to the end of the epoch, with set-up, without validation.
    seconds: list[float] = field(default_factory=list)
    # Mean NDCG@10 of the `next_item` cases after the epoch.
    ndcg: list[float] = field(default_factory=list)

    def seconds_to(self, mark: float) -> float | None:
        """Seconds to the end of the first epoch that reaches the mark; None if none does."""
        return next((s for s, value in zip(self.seconds, self.ndcg, strict=True) if value >= mark), None)

    def figures(self, mark: float) -> dict:
        """The curve as part of a result file."""
        epochs, points = len(self.seconds), zip(self.seconds, self.ndcg, strict=True)
        return {
            "epochs": epochs,
            "seconds": round(self.seconds[-1], 2),
            "seconds_to_mark": (reached := self.seconds_to(mark)) and round(reached, 2),
            "epochs_per_second": round(epochs / self.seconds[-1], 4),
            "events_per_second": round(self.epoch_events * epochs / self.seconds[-1]),
            "epoch_events": self.epoch_events,
            "curve": [{"seconds": round(seconds, 2), "ndcg@10": round(score, 5)} for seconds, score in points],
        }


class Stopwatch:
    """Seconds since it was made, without the work that is wrapped in `exclude`."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now, self.started = now, now()

    def seconds(self) -> float:
        return self.now() - self.started

    def exclude(self, work: Callable) -> Callable:
        """The same work, whose time does not count."""

        def excluded(*arguments: Any) -> Any:
            begun = self.now()
            try:
                return work(*arguments)
            finally:
                self.started += self.now() - begun

        return excluded


def model_curve(label: str, features: Features, settings: params.Params, cases: int, mark: float) -> LearningCurve:
    """The curve of one of our models up to the first epoch that reaches the mark, or to where validation stops it.

    After each epoch so many cases of each target are ranked.
    """
    curve, watch = LearningCurve(int((features.past.items != PAD).sum())), Stopwatch()
    train = settings.train.model_copy(update={"early_stopping_cases": cases, "validation_cases": cases})
    hyperparameters = settings.train.models[label].model_dump()
    for limit in ("max_epochs", "max_steps"):  # as long as an experiment allows
        hyperparameters[limit] = max(hyperparameters[limit], getattr(settings.experiment, limit))

    def on_epoch(row: dict) -> bool:
        curve.seconds.append(watch.seconds())
        curve.ndcg.append(row["valid/next_item/ndcg_10"])
        print(f"{label}: epoch {row['epoch']}, {curve.seconds[-1]:.1f} s, NDCG@10 {curve.ndcg[-1]:.4f}", flush=True)
        return curve.ndcg[-1] >= mark

    # All validation of a fit goes through this one function.
    with patch.object(validation, "ndcg", watch.exclude(validation.ndcg)):
        fit(hyperparameters, features, train, settings.seed, on_epoch)
    return curve


def rectools_curve(
    features: Features, cases: EvaluationCases, settings: params.Params, epochs: int, threads: int
) -> tuple[LearningCurve, dict]:
    """The curve of RecTools' SASRec with the sizes of our sasrec, and the versions of its packages.

    Cases without history get popular items.

    Raises:
        UserError: RecTools cannot be installed, or its process fails.
    """
    python = rectools_python()
    ours = settings.train.models["sasrec"].model_dump()
    request = {"epochs": epochs, "threads": threads, "seed": settings.seed, "cases": len(cases), "k": K}
    request["model"] = {theirs: ours[name] for name, theirs in RECTOOLS_PARAMETERS.items()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
        generator, past = np.random.default_rng(settings.seed), features.past
        write_log(folder / "events.npz", past, np.arange(len(past.items)), past.users, generator)
        # A user for each case, with the history that it sees.
        write_log(folder / "histories.npz", features.log, *visible_events(features.log, cases), generator)
        command = [str(python), "-I", str(ROOT / "benchmarks" / "_rectools_fit.py"), str(folder)]
        environment = os.environ | dict.fromkeys(THREADS, str(threads))
        if subprocess.run(command, check=False, env=environment).returncode:
            raise UserError("benchmarks: RecTools failed; see its output above")
        answer = np.load(folder / "answer.npz")
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    popularity = build_model({"name": "popularity", "days": None}, features)
    popular = validation.ndcg(popularity, features, cases, features.trend_log(), settings.train.eval_batch_size)
    values = [np.where(lists[:, 0] == PAD, popular, list_ndcg(lists, cases)) for lists in answer["ranked"]]
    means = [float(epoch.mean()) for epoch in values]
    return LearningCurve(about["epoch_events"], answer["seconds"].tolist(), means), about["versions"]


def rectools_python() -> Path:
    """The interpreter of RecTools' environment, installed on first use: it needs an older numpy. The torch is the same.

    Raises:
        UserError: pip cannot install it.
    """
    torch = f"torch=={version('torch').partition('+')[0]}"
    wanted = ["rectools[torch]==0.19.*", torch]
    python, stamp = RECTOOLS / "bin" / "python", RECTOOLS / "installed.json"
    if stamp.exists() and json.loads(stamp.read_text(encoding="utf-8")) == wanted:
        return python
    print(f"installing {' and '.join(wanted)} into {RECTOOLS.relative_to(ROOT)}, takes some minutes ...", flush=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
    steps = [[sys.executable, "-m", "venv", "--clear", str(RECTOOLS)], [*pip, *wanted]]
    if index := os.environ.get("TORCH_INDEX"):
        steps.insert(1, [*pip, "--index-url", index, torch])
    for step in steps:
        if subprocess.run(step, check=False).returncode:
            raise UserError(f"benchmarks: RecTools cannot be installed: {' '.join(step)} failed; see its output above")
    stamp.write_text(json.dumps(wanted), encoding="utf-8")
    return python


def visible_events(log: InteractionLog, cases: EvaluationCases) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the log before each case's time that were known by then, and the case of each row."""
    start = log.offsets[cases.user]
    rows, owner = ranges(start, cases.end - start), row_numbers(cases.end - start)
    known = log.known[rows] <= cases.time[owner]
    return rows[known], owner[known]


def write_log(
    path: Path, log: InteractionLog, rows: np.ndarray, owner: np.ndarray, generator: np.random.Generator
) -> None:
    """Events of one user at one time are shuffled: the order in the file is an artifact that RecTools would learn."""
    kept = log.items[rows] != PAD
    rows, owner = rows[kept], owner[kept]
    order = np.lexsort([generator.random(len(rows)), log.times[rows], owner])
    rows, owner = rows[order], owner[order]
    np.savez(path, user=owner, item=log.items[rows], time=log.times[rows])


def list_ndcg(lists: np.ndarray, cases: EvaluationCases) -> np.ndarray:
    """(n,) NDCG@10 of (n, k) lists for `next_item` cases, whose one true item may be missing from its list."""
    hit = lists == cases.truth[:, None]
    rank = np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, NOT_RANKED)
    return ndcg(TrueRanks.single(rank), validation.HEADLINE_K)


def report(curves: dict[str, LearningCurve], mark: float, reference_seconds: float) -> str:
    """A table: how long each model trained, its best NDCG@10, when it reached the mark, how fast it was."""
    lines = [ROW.format("", "epochs", "seconds", "best", "s to mark", "ratio", "epochs/s", "events/s")]
    for name, curve in curves.items():
        figures = curve.figures(mark)
        to_mark = figures["seconds_to_mark"]
        reached = (f"{to_mark:.1f}", f"{reference_seconds / to_mark:.2f}") if to_mark else ("never", "-")
        speeds = f"{figures['epochs_per_second']:.3f}", f"{figures['events_per_second']:,}"
        trained = figures["epochs"], f"{figures['seconds']:.1f}", f"{max(curve.ndcg):.4f}"
        lines.append(ROW.format(name, *trained, *reached, *speeds))
    lines.append(
        f"Mark: NDCG@10 {mark:.4f}, RecTools after its last epoch. Ratio: its {reference_seconds:.1f} s / seconds to mark."
    )
    return "\n".join([*lines, COUNTED])


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__.splitlines()[0])
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
    import torch  # not before config.command has set how threads wait

    torch.set_num_threads(arguments.threads)
    # A workspace of its own: that of a demo may have tuned settings.
    arguments.name = arguments.name or f"{workspace.name_of(arguments.source.expanduser().resolve())}{SUFFIX}"
    folder = workspace.workspace_of(arguments)
    assert folder is not None
    steps.step("data and features", "dvc", ["repro", "featurize"], folder, steps.environment())
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
