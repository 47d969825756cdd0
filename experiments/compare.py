"""VERB compare: metrics and rankings of all models -> the data set's results as JSON, Markdown and an HTML
page."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pandas as pd

from config import params
from config.command import exits_cleanly
from config.paths import EXPERIMENTS, ROOT
from experiments.evaluation.comparison import best_on_validation, comparisons
from experiments.evaluation.measure import CompareError, Measured, read_metrics
from experiments.leaderboard.board import Board, decay, result
from experiments.leaderboard.markdown import markdown

OUT = ROOT / EXPERIMENTS
RESULTS = ROOT / "experiments" / "results"
NEEDED = ["case_id", "user_id", "target", "time", "history_length", "true_ranks"]  # the lists themselves are large


def build(
    dataset: str,
    seed: int,
    resamples: int,
    out: Path = OUT,
    registered: str | None = None,
    pairs: Sequence[tuple[str, str]] = (),
) -> Board:
    """Read what evaluate wrote of one data set and compare it.

    Args:
        seed, resamples: of the bootstrap.
        out: holds metrics/<label>.json and rankings/<label>.parquet.
        registered: label of the model that the gate is to judge, and so registers.
        pairs: further (model, against) labels to compare.

    Raises:
        CompareError: nothing was measured, or the numbers may not stand side by side.
    """
    measured = read_metrics(out / "metrics", dataset)
    if all(one.oracle for one in measured):
        raise CompareError(f"{out / 'metrics'} holds no model of {dataset!r}, only the oracle; run evaluate")
    by_label = {one.label: one for one in measured}

    @cache
    def tables(label: str) -> list[pd.DataFrame]:
        return [_rankings(path) for path in by_label[label].ranking_files(out / "rankings")]

    def frames(one: Measured) -> list[pd.DataFrame]:
        return tables(one.label)

    lines = comparisons(measured, frames, seed, resamples, [*pairs, *with_parts(measured)])
    aged = {
        one.label: decay(frames(one), seed, resamples)
        for one in measured
        if "next_item" in one.targets and not one.oracle
    }
    return Board.of(measured, lines, registered, aged)


def with_parts(measured: Sequence[Measured]) -> list[tuple[str, str]]:
    """Every hybrid against each of its parts: a sum that is no better than one of them is not worth its cost."""
    labels = {one.label for one in measured}
    return [(one.label, part) for one in measured for part in one.params.get("parts", {}) if part in labels]


def write(board: Board, out: Path = OUT, results: Path = RESULTS) -> list[Path]:
    """Write results/<dataset>.json and .md (small, committed) and out/leaderboard.html; return their
    paths."""
    from experiments.leaderboard.html_page import page

    texts = {
        results / f"{board.dataset}.json": json.dumps(result(board), indent=1, sort_keys=True, allow_nan=False) + "\n",
        results / f"{board.dataset}.md": markdown(board),
        out / "leaderboard.html": page(board),
    }
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(texts)


def _rankings(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path, columns=NEEDED)
    except FileNotFoundError:
        raise CompareError(f"{path} does not exist; run evaluate") from None


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """The command line."""
    settings = params.load(ROOT / "params.yaml")
    parser = argparse.ArgumentParser(prog="python -m experiments.compare", description=__doc__)
    parser.add_argument("--dataset", default=settings.dataset, help="data set to compare (default: %(default)s)")
    parser.add_argument("--registered", metavar="LABEL",
                        help="the model to mark as registered (default: the learned one that is best on validation)")  # fmt: skip
    parser.add_argument("--pair", nargs=2, action="append", default=[], metavar=("MODEL", "AGAINST"),
                        help="one more paired comparison; may be given again")  # fmt: skip
    parser.add_argument("--out", type=Path, default=OUT, help="folder with metrics/ and rankings/")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for <dataset>.json and <dataset>.md")
    args = parser.parse_args(argv)
    pairs = [(model, against) for model, against in args.pair]
    measured = read_metrics(args.out / "metrics", args.dataset)
    registered = args.registered or best_on_validation(measured, learned=True)
    board = build(args.dataset, settings.seed, settings.evaluate.resamples, args.out, registered, pairs)
    paths = write(board, args.out, args.results)
    print(f"compared {len(board.models)} models of {board.dataset}: {', '.join(map(str, paths))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
