"""Simulate how often the gate errs and how many users it needs, by resampling real users."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from config import params
from config.command import UserError, exits_cleanly
from config.paths import EXPERIMENTS, METRICS, RANKINGS
from experiments.evaluation.comparison import best_on_validation
from experiments.evaluation.metrics_files import read_metrics
from experiments.gating import error_rates
from experiments.gating.error_rates import EQUAL, MODELS, SEEDS, Population
from training import provenance

RESULTS = Path("experiments/results/error_rates")


def rankings_to_compare(labels: list[str]) -> Iterator[tuple[str, str, Path, Path]]:
    """(name, kind, champion's rankings, candidate's): the first label under each two seeds, then against the others."""
    first, *others = labels
    by_seed = sorted(
        (EXPERIMENTS / "seeds").glob(f"[0-9]*/rankings/{first}.parquet"), key=lambda path: int(path.parts[-3])
    )
    for theirs in by_seed:
        for ours in by_seed:
            if ours != theirs:
                yield f"{first}, seed {ours.parts[-3]} against {theirs.parts[-3]}", SEEDS, theirs, ours
    for other in others:
        yield f"{first} against {other}", MODELS, RANKINGS / f"{other}.parquet", RANKINGS / f"{first}.parquet"


def choose_labels(named: list[str] | None, settings: params.Params) -> list[str]:
    """The candidate first. Default: the best learned model and the best baseline on validation."""
    measured = read_metrics(METRICS, settings.dataset)
    known = [model.label for model in measured]
    for label in named or []:
        if label not in known:
            raise UserError(f"--models {label}: {METRICS} holds {', '.join(known)}")
    if named:
        return named
    first, second = best_on_validation(measured, learned=True), best_on_validation(measured, learned=False)
    if first is None or second is None:
        raise UserError("error_rates needs a learned model and a baseline; evaluate both first")
    return [first, second]


def measure(settings: params.Params, labels: list[str]) -> dict:
    """Everything that the page says, as plain data."""
    pairs = []
    for name, kind, theirs, ours in rankings_to_compare(labels):
        begin = time.monotonic()
        population = Population.of(pd.read_parquet(theirs), pd.read_parquet(ours))
        points = error_rates.simulate_pair(population, kind, settings)
        pairs.append({"pair": name, "kind": kind, "users": len(population), "points": points})
        share = max(error_rates.promoted_share(point) for point in points if point["what"] == EQUAL)
        seconds = time.monotonic() - begin
        print(f"simulated {name} in {seconds:.1f} s: {len(population):,} users, equals promoted in at most {share:.1%}")
    facts = {
        "dataset": settings.dataset,
        "split_id": read_metrics(METRICS, settings.dataset)[0].split_id,
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
    facts = measure(settings, choose_labels(arguments.models, settings))
    arguments.out.mkdir(parents=True, exist_ok=True)
    stem = arguments.out / settings.dataset
    stem.with_suffix(".json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    stem.with_suffix(".md").write_text(error_rates.markdown(facts))
    error_rates.write_chart(facts, stem.with_suffix(".svg"))
    print(f"{error_rates.conclusion(facts)}; report: {stem}.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
