"""Write a dataset's leaderboard as JSON, Markdown and HTML, from the metrics and rankings of all models."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from config import params
from config.command import exits_cleanly
from config.paths import EXPERIMENTS, ROOT
from experiments.evaluation.comparison import best_on_validation, read_metrics
from experiments.leaderboard.board import Board, build_board, result_file

OUT = ROOT / EXPERIMENTS
RESULTS = ROOT / "experiments" / "results"


def write(board: Board, out: Path = OUT, results: Path = RESULTS) -> list[Path]:
    """Write results/<dataset>.json and .md (small, committed) and out/leaderboard.html; return their paths."""
    from experiments.leaderboard.report import html_report, markdown_report

    result = json.dumps(result_file(board), indent=1, sort_keys=True, allow_nan=False)
    texts = {
        results / f"{board.dataset}.json": result + "\n",
        results / f"{board.dataset}.md": markdown_report(board),
        out / "leaderboard.html": html_report(board),
    }
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(texts)


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    settings = params.load(ROOT / "params.yaml")
    parser = argparse.ArgumentParser(prog="python -m experiments.compare", description=__doc__)
    parser.add_argument("--dataset", default=settings.dataset, help="dataset to compare (default: %(default)s)")
    parser.add_argument("--registered", metavar="LABEL", help="model to mark (default: best learned one on validation)")
    pair = ("MODEL", "AGAINST")
    parser.add_argument("--pair", nargs=2, action="append", default=[], metavar=pair, help="one more comparison")
    parser.add_argument("--out", type=Path, default=OUT, help="folder with metrics/ and rankings/")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for <dataset>.json and <dataset>.md")
    arguments = parser.parse_args(argv)
    measured = read_metrics(arguments.out / "metrics", arguments.dataset)
    registered = arguments.registered or best_on_validation(measured, learned=True)
    board = build_board(
        arguments.dataset, settings.seed, settings.evaluate.resamples, arguments.out, registered,
        [(model, against) for model, against in arguments.pair],
    )  # fmt: skip
    paths = write(board, arguments.out, arguments.results)
    print(
        f"compared {len(board.models)} models of {board.dataset}; written to {', '.join(map(os.path.relpath, paths))}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
