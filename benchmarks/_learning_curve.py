"""Learning curves: NDCG@10 and seconds after each epoch, of our models and of RecTools' SASRec on the same cases.

RecTools has its own environment, is fitted on the same events and measured by our metric on the same cases.

Shapes: n cases, k list length.
"""

from __future__ import annotations

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

from config import params
from config.command import UserError
from config.paths import BENCHMARKS, ROOT
from features.feature_files import Features
from features.sequences import EvaluationCases, InteractionLog
from features.vocabulary import PAD
from training import validation
from training.fitting import fit
from training.metrics import NOT_RANKED, TrueRanks, ndcg
from training.model_factory import sizes_of
from training.models.registry import build

HOME = BENCHMARKS / "rectools"
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


@dataclass
class LearningCurve:
    """One entry per epoch.

    Attributes:
        epoch_events: events that the model reads per epoch.
        seconds: of fitting up to the end of the epoch, with set-up, without validation.
        ndcg: mean NDCG@10 of the `next_item` cases after the epoch.
    """

    epoch_events: int
    seconds: list[float] = field(default_factory=list)
    ndcg: list[float] = field(default_factory=list)

    def seconds_to(self, mark: float) -> float | None:
        """Seconds to the end of the first epoch that reaches the mark; None if none does."""
        return next((s for s, value in zip(self.seconds, self.ndcg, strict=True) if value >= mark), None)

    def figures(self, mark: float) -> dict:
        """The curve as part of a result file."""
        epochs = len(self.seconds)
        return {
            "epochs": epochs,
            "seconds": round(self.seconds[-1], 2),
            "seconds_to_mark": (reached := self.seconds_to(mark)) and round(reached, 2),
            "epochs_per_second": round(epochs / self.seconds[-1], 4),
            "events_per_second": round(self.epoch_events * epochs / self.seconds[-1]),
            "epoch_events": self.epoch_events,
            "curve": [
                {"seconds": round(s, 2), "ndcg@10": round(n, 5)} for s, n in zip(self.seconds, self.ndcg, strict=True)
            ],
        }


class Stopwatch:
    """Seconds since it was made, without the work that is wrapped in `exclude`."""

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.now, self.started, self.excluded = now, now(), 0.0

    def seconds(self) -> float:
        return self.now() - self.started - self.excluded

    def exclude(self, work: Callable) -> Callable:
        """The same work, whose time does not count."""

        def excluded(*arguments: Any) -> Any:
            started = self.now()
            try:
                return work(*arguments)
            finally:
                self.excluded += self.now() - started

        return excluded


def model_curve(label: str, features: Features, settings: params.Params, cases: int, mark: float) -> LearningCurve:
    """The curve of one of our models up to the first epoch that reaches the mark, or to where validation stops it.

    Args:
        cases: of each target that are ranked after each epoch, drawn by `settings.seed`.
    """
    curve, watch = LearningCurve(int((features.past.items != PAD).sum())), Stopwatch()
    train = settings.train.model_copy(update={"early_stopping_cases": cases, "validation_cases": cases})
    configuration = settings.train.models[label].model_dump()
    for limit in ("max_epochs", "max_steps"):  # as long as an experiment allows
        configuration[limit] = max(configuration[limit], getattr(settings.experiment, limit))

    def on_epoch(row: dict) -> bool:
        curve.seconds.append(watch.seconds())
        curve.ndcg.append(row["valid/next_item/ndcg_10"])
        print(f"{label}: epoch {row['epoch']}, {curve.seconds[-1]:.1f} s, NDCG@10 {curve.ndcg[-1]:.4f}", flush=True)
        return curve.ndcg[-1] >= mark

    # All validation of a fit goes through this one function.
    with patch.object(validation, "ndcg", watch.exclude(validation.ndcg)):
        fit(configuration, features, train, settings.seed, on_epoch)
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
    request = {
        "model": {theirs: ours[name] for name, theirs in RECTOOLS_PARAMETERS.items()},
        "epochs": epochs,
        "threads": threads,
        "seed": settings.seed,
        "cases": len(cases),
        "k": K,
    }
    popularity = build({"name": "popularity", "days": None}, sizes_of(features))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "request.json").write_text(json.dumps(request))
        write_events(folder, features, cases, settings.seed)
        command = [str(python), "-I", str(ROOT / "benchmarks" / "_rectools_fit.py"), str(folder)]
        environment = os.environ | dict.fromkeys(THREADS, str(threads))
        if subprocess.run(command, check=False, env=environment).returncode:
            raise UserError("benchmarks: RecTools failed; see its output above")
        answer = np.load(folder / "answer.npz")
        about = json.loads((folder / "about.json").read_text())
        trends, batch_size = features.trend_log(), settings.train.eval_batch_size
        popular = validation.ndcg(popularity, features, cases, trends, batch_size)
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
    python, stamp = HOME / "bin" / "python", HOME / "installed.json"
    if stamp.exists() and json.loads(stamp.read_text()) == wanted:
        return python
    print(f"installing {' and '.join(wanted)} into {HOME.relative_to(ROOT)}, takes some minutes ...", flush=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
    steps = [[sys.executable, "-m", "venv", "--clear", str(HOME)], [*pip, *wanted]]
    if index := os.environ.get("TORCH_INDEX"):
        steps.insert(1, [*pip, "--index-url", index, torch])
    for step in steps:
        if subprocess.run(step, check=False).returncode:
            raise UserError(f"benchmarks: RecTools cannot be installed: {' '.join(step)} failed; see its output above")
    stamp.write_text(json.dumps(wanted))
    return python


def write_events(folder: Path, features: Features, cases: EvaluationCases, seed: int) -> None:
    """Write events.npz, known before the cut, and histories.npz, where each case is a user with its own history.

    Events of one user at one time are shuffled: the order in the file is an artifact that RecTools would learn.
    """
    generator = np.random.default_rng(seed)
    past = features.past
    _write_log(folder / "events.npz", past, np.arange(len(past.items)), past.users, generator)
    rows, owner = visible_events(features.log, cases)
    _write_log(folder / "histories.npz", features.log, rows, owner, generator)


def visible_events(log: InteractionLog, cases: EvaluationCases) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the log before each case's time that were known by then, and the case of each row."""
    start = log.offsets[cases.user]
    lengths = cases.end - start
    owner = np.repeat(np.arange(len(cases)), lengths)
    rows = np.arange(lengths.sum()) + np.repeat(start - (np.cumsum(lengths) - lengths), lengths)
    known = log.known[rows] <= cases.time[owner]
    return rows[known], owner[known]


def _write_log(
    path: Path, log: InteractionLog, rows: np.ndarray, owner: np.ndarray, generator: np.random.Generator
) -> None:
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
