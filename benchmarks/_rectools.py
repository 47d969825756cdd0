"""RecTools' SASRec on our split: installed beside us, fitted on the same events, judged on the same cases by our metric.

Legend: n cases, E events, L epochs, k list length.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks._training_curve import LearningCurve
from config.command import UserError
from config.paths import BENCHMARKS, ROOT
from features.feature_files import Features
from features.sequences import EvaluationCases, Log
from features.vocabulary import PAD
from training import validation
from training.metrics import NOT_RANKED, TrueRanks, ndcg
from training.models.registry import build
from training.train import sizes_of

HOME = BENCHMARKS / "rectools"
K = 100
# It names its sizes otherwise. What is not named here (batch of 128 users, Adam at 0.001) is as RecTools has it.
NAMES = {"embedding_dim": "n_factors", "num_layers": "n_blocks", "num_heads": "n_heads", "max_history": "session_max_len",
         "dropout": "dropout_rate"}  # fmt: skip


def environment() -> Path:
    """Its interpreter, installed on first use: it needs an older numpy than ours. The same torch, for speed's sake.

    Raises:
        UserError: pip cannot install it.
    """
    torch = f"torch=={version('torch').partition('+')[0]}"
    wanted = ["rectools[torch]==0.19.*", torch]
    python, stamp = HOME / "bin" / "python", HOME / "installed.json"
    if stamp.exists() and json.loads(stamp.read_text()) == wanted:
        return python
    print(f"installing {' and '.join(wanted)} into {HOME.relative_to(ROOT)}, some minutes ...", flush=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
    steps = [[sys.executable, "-m", "venv", "--clear", str(HOME)], [*pip, *wanted]]
    if index := os.environ.get("TORCH_INDEX"):
        steps.insert(1, [*pip, "--index-url", index, torch])
    for step in steps:
        if subprocess.run(step, check=False).returncode:
            raise UserError(f"benchmarks: RecTools cannot be installed: {' '.join(step)} failed; its words stand above")
    stamp.write_text(json.dumps(wanted))
    return python


def export(folder: Path, features: Features, cases: EvaluationCases, seed: int) -> None:
    """events.npz, what was known before the cut, and histories.npz, each case's own as that of a user of its own.

    Events of one user and time are in random order: that of the file is an artefact that RecTools would learn.
    """
    generator = np.random.default_rng(seed)
    past = features.past
    _save(folder / "events.npz", past, np.arange(len(past.items)), past.users, generator)
    rows, owner = visible(features.log, cases)
    _save(folder / "histories.npz", features.log, rows, owner, generator)


def visible(log: Log, cases: EvaluationCases) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the log that the cases may see, strictly before their times and known by then; the case of each."""
    start = log.offsets[cases.user]
    lengths = cases.end - start
    owner = np.repeat(np.arange(len(cases)), lengths)
    rows = np.arange(lengths.sum()) + np.repeat(start - (np.cumsum(lengths) - lengths), lengths)
    known = log.known[rows] <= cases.time[owner]
    return rows[known], owner[known]


def _save(path: Path, log: Log, rows: np.ndarray, owner: np.ndarray, generator: np.random.Generator) -> None:
    kept = log.items[rows] != PAD
    rows, owner = rows[kept], owner[kept]
    order = np.lexsort([generator.random(len(rows)), log.times[rows], owner])
    rows, owner = rows[order], owner[order]
    np.savez(path, user=owner, item=log.items[rows], time=log.times[rows])


def curve_of(
    features: Features, cases: EvaluationCases, recipe: dict, epochs: int, threads: int, seed: int, size: int
) -> tuple[LearningCurve, dict]:
    """Its curve over all epochs, and the versions that made it.

    Args:
        recipe: ours, whose sizes it gets.
        size: of our batches, for the cases without a history, which get popular items.

    Raises:
        UserError: its process fails.
    """
    python = environment()
    request = {"model": {theirs: recipe[ours] for ours, theirs in NAMES.items()}, "epochs": epochs,
               "threads": threads, "seed": seed, "cases": len(cases), "k": K}  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "request.json").write_text(json.dumps(request))
        export(folder, features, cases, seed)
        command = [str(python), "-I", str(ROOT / "benchmarks" / "_rectools_fit.py"), str(folder)]
        threads_of = {key: str(threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        if subprocess.run(command, check=False, env=os.environ | threads_of).returncode:
            raise UserError("benchmarks: RecTools failed; its words stand above")
        answer = np.load(folder / "answer.npz")
        about = json.loads((folder / "about.json").read_text())
        popular = _popular(features, cases, size)
        values = [np.where(lists[:, 0] == PAD, popular, scores(lists, cases)) for lists in answer["ranked"]]
        means = [float(each.mean()) for each in values]
        return LearningCurve(about["epoch_events"], answer["seconds"].tolist(), means), about["versions"]


def scores(lists: np.ndarray, cases: EvaluationCases) -> np.ndarray:
    """(n,) NDCG@10 of (n, k) lists; a `next_item` case has one true item, which may stand nowhere in them."""
    hit = lists == cases.truth[:, None]
    rank = np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, NOT_RANKED)
    return ndcg(TrueRanks.single(rank), validation.HEADLINE_K)


def _popular(features: Features, cases: EvaluationCases, size: int) -> np.ndarray:
    """(n,) NDCG@10 of all-time popularity, as every baseline falls back to where there is nothing to go by."""
    model = build({"name": "popularity", "days": None}, sizes_of(features))
    return validation.ndcg(model, features, cases, features.trend_log(), size)
