"""Simulate how often the gate errs and how many users it needs, by resampling real users."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import permutations
from pathlib import Path

import pandas as pd

from config import params
from config.command import UserError, exits_cleanly
from config.paths import EXPERIMENTS, METRICS, RANKINGS
from experiments.evaluation.comparison import best_on_validation
from experiments.evaluation.metrics_files import MeasuredModel, read_metrics
from experiments.gating import error_rates
from experiments.gating.error_rates import MODELS, SEEDS, Population
from training import provenance

RESULTS = Path("experiments/results/error_rates")


def rankings_to_compare(labels: list[str]) -> Iterator[tuple[str, str, Path, Path]]:
    """(name, kind, champion's rankings, candidate's): the first label under each two seeds, then against the others."""
    first, *others = labels
    by_seed = sorted(
        (EXPERIMENTS / "seeds").glob(f"[0-9]*/rankings/{first}.parquet"), key=lambda path: int(path.parts[-3])
    )
    for theirs, ours in permutations(by_seed, 2):
        yield f"{first}, seed {ours.parts[-3]} against {theirs.parts[-3]}", SEEDS, theirs, ours
    for other in others:
        yield f"{first} against {other}", MODELS, RANKINGS / f"{other}.parquet", RANKINGS / f"{first}.parquet"


def choose_labels(named: list[str] | None, measured: list[MeasuredModel]) -> list[str]:
    """The candidate first. Default: the best learned model and the best baseline on validation."""
    known = [model.label for model in measured]
    for label in named or []:
        if label not in known:
            raise UserError(f"--models {label}: {METRICS} holds {', '.join(known)}")
    labels = named or [best_on_validation(measured, learned) for learned in (True, False)]
    if len(labels) < 2 or None in labels:
        raise UserError("error_rates needs a learned model and a baseline, or two --models; evaluate both first")
    return labels


def measure(settings: params.Params, labels: list[str], split_id: str) -> dict:
    """All results as plain data."""
    pairs = []
    for name, kind, theirs, ours in rankings_to_compare(labels):
        begin = time.monotonic()
        population = Population.of(pd.read_parquet(theirs), pd.read_parquet(ours))
        points = error_rates.simulate_pair(population, kind, settings)
        pairs.append({"pair": name, "kind": kind, "users": len(population), "points": points})
        print(f"simulated {name} in {time.monotonic() - begin:.1f} s: {len(population):,} users", flush=True)
    facts = {
        "dataset": settings.dataset,
        "split_id": split_id,
        "labels": labels,
        "pairs": pairs,
        "policy": settings.gate.model_dump(),
        "settings": settings.error_rates.model_dump(),
        "seed": settings.seed,
        "commit": provenance.commit(),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "command": f"python -m experiments.error_rates --models {' '.join(labels)}",
    }
    return facts | {"min_users": error_rates.min_users(facts)}


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.error_rates", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", metavar="LABEL", help="the candidate, then its opponents")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results (default: %(default)s)")
    arguments = parser.parse_args(argv)
    settings = params.load()
    measured = read_metrics(METRICS, settings.dataset)
    facts = measure(settings, choose_labels(arguments.models, measured), measured[0].split_id)
    arguments.out.mkdir(parents=True, exist_ok=True)
    stem = arguments.out / settings.dataset
    stem.with_suffix(".json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    stem.with_suffix(".md").write_text(error_rates.markdown(facts), encoding="utf-8")
    print(f"{error_rates.conclusion(facts)}; report: {stem}.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
