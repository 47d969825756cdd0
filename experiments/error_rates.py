"""VERB error_rates: how often the gate errs, and how many users it needs, by simulated looks at resampled real users."""

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
from experiments.evaluation.cases import TARGETS
from experiments.evaluation.comparison import best_on_validation
from experiments.evaluation.measure import read_metrics
from experiments.gating import error_rates_page
from experiments.gating.error_rates_page import chart
from experiments.gating.error_simulation import (
    ALONE,
    AS_THEY_ARE,
    BETTER,
    EQUAL,
    WORSE,
    Population,
    min_users,
    population,
    share,
    verdicts,
)
from training import provenance

RESULTS = Path("experiments/results/error_rates")
CERTAIN = 0.5  # an effect on the primary target that no gate overlooks, so that the other target alone decides


def pairs(settings: params.Params, labels: list[str]) -> Iterator[tuple[str, str, Path, Path]]:
    """(what, kind, champion's rankings, candidate's): each seed of the first label against each other, then the first
    against the rest."""
    first, *others = labels
    by_seed = sorted(
        (EXPERIMENTS / "seeds").glob(f"[0-9]*/rankings/{first}.parquet"), key=lambda path: int(path.parts[-3])
    )
    for theirs in by_seed:
        for ours in by_seed:
            if ours != theirs:
                yield f"{first}, seed {ours.parts[-3]} against {theirs.parts[-3]}", "seeds", theirs, ours
    for other in others:
        rankings = RANKINGS
        yield f"{first} against {other}", "models", rankings / f"{other}.parquet", rankings / f"{first}.parquet"


def simulate(found: Population, kind: str, settings: params.Params) -> list[dict]:
    """Points of one pair: for each number of users and true effect how often each verdict came."""
    chosen, policy = settings.error_rates, settings.gate
    other = next(target for target in TARGETS if target != policy.primary)
    asked: list[tuple[str, dict[str, float]]] = [(EQUAL, dict.fromkeys(TARGETS, 0.0))]
    if kind == "models":
        asked.append((WORSE, {policy.primary: CERTAIN, other: -policy.margin}))
        asked += [(BETTER, dict.fromkeys(TARGETS, effect)) for effect in chosen.effects]
        asked += [(ALONE, {policy.primary: effect, other: 0.0}) for effect in chosen.effects]
    worlds = [(what, effect, found.with_effect([effect[t] for t in TARGETS])) for what, effect in asked]
    if kind == "seeds":
        worlds.append((AS_THEY_ARE, dict(zip(TARGETS, found.effect.tolist(), strict=True)), found))
    return [
        {"what": what, "effect": effect, "users": users, "looks": looks,
         "verdicts": dict(verdicts(world, users, looks, policy, policy.resamples, settings.seed))}
        for what, effect, world in worlds for users in chosen.users
        for looks in [chosen.power_looks if what in (BETTER, ALONE) else chosen.looks]
    ]  # fmt: skip


def labels_of(given: list[str] | None, settings: params.Params) -> list[str]:
    """The candidate first: the best learned model on validation, and the best baseline of each target, unless named."""
    measured = read_metrics(METRICS, settings.dataset)
    if given:
        for label in given:
            if label not in {one.label for one in measured}:
                raise UserError(f"--models {label}: {METRICS} holds {', '.join(one.label for one in measured)}")
        return given
    first, second = best_on_validation(measured, learned=True), best_on_validation(measured, learned=False)
    if first is None or second is None:
        raise UserError("error_rates: a learned model and a baseline are needed; run evaluate of both")
    return [first, second]


def facts_of(settings: params.Params, labels: list[str]) -> dict:
    """Everything that the page says."""
    found = []
    for what, kind, theirs, ours in pairs(settings, labels):
        begun = time.monotonic()
        people = population(*(pd.read_parquet(path) for path in (theirs, ours)))
        points = simulate(people, kind, settings)
        found.append({"pair": what, "kind": kind, "users": len(people), "points": points})
        promoted = max(share(point) for point in points if point["what"] == EQUAL)
        took = time.monotonic() - begun
        print(f"error_rates: {what}: {len(people):,} users, equals promoted {promoted:.1%} at most; {took:.1f} s")
    measured = read_metrics(METRICS, settings.dataset)[0]
    facts = {
        "dataset": settings.dataset, "split_id": measured.split_id, "labels": labels, "pairs": found,
        "policy": settings.gate.model_dump(), "settings": settings.error_rates.model_dump(),
        "seed": settings.seed, "commit": provenance.commit(), "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "command": f"python -m experiments.error_rates --models {' '.join(labels)}",
    }  # fmt: skip
    return facts | {"min_users": min_users(facts)}


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.error_rates", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", metavar="LABEL", help="the candidate, then whom it is set against")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results (default: %(default)s)")
    arguments = parser.parse_args(argv)
    settings = params.load()
    facts = facts_of(settings, labels_of(arguments.models, settings))
    arguments.out.mkdir(parents=True, exist_ok=True)
    stem = arguments.out / settings.dataset
    stem.with_suffix(".json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n")
    stem.with_suffix(".svg").write_text(chart(facts))
    stem.with_suffix(".md").write_text(error_rates_page.markdown(facts))
    print(f"error_rates: {error_rates_page.statement(facts)} -> {stem}.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
