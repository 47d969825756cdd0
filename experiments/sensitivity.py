"""VERB sensitivity: how the ranking of models moves between protocols, on events before test_start. A diagnostic:
what it finds cannot feed a gate."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from config import params
from config.command import UserError, exits_cleanly
from config.paths import EXPERIMENTS
from experiments.evaluation import holdout_protocols
from experiments.evaluation.holdout_protocols import MEANINGS, Fold
from experiments.leaderboard import sensitivity_card
from features.folds import Tables
from training import provenance, validation
from training.train import FitError, fit


def asked_of(labels: list[str] | None, settings: params.Params) -> list[str]:
    """The labels to fit: those named, else those of params.yaml that train.models holds.

    Raises:
        UserError: a named one is unknown, or fewer than two are left to be ordered.
    """
    known = settings.train.models
    for label in labels or []:
        if label not in known:
            raise UserError(f"--models {label}: train.models holds {', '.join(known)}")
    asked = list(dict.fromkeys(labels or [label for label in settings.sensitivity.models if label in known]))
    if len(asked) < 2:
        raise UserError(f"sensitivity: {len(asked)} models have no order; expected at least 2 (--models)")
    return asked


def recipe_of(label: str, settings: params.Params) -> dict:
    """Parameters of params.yaml; a hybrid's parts with theirs, so that it can be fitted anew in every fold."""
    models = settings.train.models
    recipe = models[label].model_dump()
    if "parts" in recipe:
        recipe["parts"] = {part: models[part].model_dump() for part in recipe["parts"]}
    return recipe


def measure(folds: Iterable[Fold], labels: list[str], settings: params.Params) -> dict[str, dict]:
    """Fit every model in every fold; column -> label -> (n, 1) NDCG@10 of the cases and (n,) their users' rows.

    The first fold finds each recipe, the others follow it: no protocol chooses parameters on its own cases. A model
    that refuses the catalogue of one fold is left out of all.
    """
    recipes = {label: recipe_of(label, settings) for label in labels}
    values: dict[str, dict[str, list]] = defaultdict(lambda: defaultdict(list))
    users: dict[str, list] = defaultdict(list)
    for fold in folds:
        begun = time.perf_counter()
        reached = _reached(fold, recipes, settings)
        for column, of in reached.items():
            users[column].append(fold.cases[column].user)
            for label, ndcg in of.items():
                values[column][label].append(ndcg)
        print(f"sensitivity: {fold.name}: {_progress(reached)}; {time.perf_counter() - begun:.1f} s", flush=True)
    return {
        column: {label: (np.concatenate(values[column][label])[:, None], np.concatenate(users[column]))
                 for label in recipes}
        for column in MEANINGS if column in values
    }  # fmt: skip


def _reached(fold: Fold, recipes: dict[str, dict], settings: params.Params) -> dict[str, dict[str, np.ndarray]]:
    """Column -> label -> (n,) NDCG@10 in one fold. `recipes` takes what a fit found, and loses what cannot be fitted.

    Raises:
        UserError: fewer than two models are left.
    """
    reached: dict[str, dict[str, np.ndarray]] = {column: {} for column in fold.cases}
    trends = fold.learned.trend_log()
    for label, recipe in list(recipes.items()):
        try:
            result = fit(recipe, fold.learned, settings.train, settings.train.seed)
        except FitError as error:
            print(f"sensitivity: {label} is left out: {error}", flush=True)
            del recipes[label]
            continue
        recipes[label] = result.recipe
        for column, cases in fold.cases.items():
            reached[column][label] = validation.ndcg(
                result.model, fold.asked, cases, trends, settings.train.eval_batch_size
            )  # fmt: skip
    if len(recipes) < 2:
        raise UserError("sensitivity: fewer than 2 models are left, and one has no order")
    return reached


def _progress(reached: dict[str, dict[str, np.ndarray]]) -> str:
    """Who leads each column of a fold."""
    means = {column: {label: ndcg.mean() for label, ndcg in of.items() if len(ndcg)} for column, of in reached.items()}
    leaders = {column: max(of, key=lambda label: of[label]) for column, of in means.items() if of}
    shown = (f"{leader} leads {column} with {means[column][leader]:.4f}" for column, leader in leaders.items())
    return ", ".join(shown) or "no cases"


def write(facts: dict) -> list[Path]:
    """out/experiments/sensitivity.json, .md and .html."""
    from experiments.leaderboard.sensitivity_card import markdown, page

    texts = {"json": json.dumps(facts, indent=1, allow_nan=False) + "\n", "md": markdown(facts), "html": page(facts)}
    EXPERIMENTS.mkdir(parents=True, exist_ok=True)
    for suffix, text in texts.items():
        (EXPERIMENTS / f"sensitivity.{suffix}").write_text(text, encoding="utf-8")
    return [EXPERIMENTS / f"sensitivity.{suffix}" for suffix in texts]


def provenance_of(tables: Tables, settings: params.Params, labels: list[str]) -> dict:
    """What stands with every number."""
    known = {key: tables.manifest[key] for key in ("dataset", "dataset_hash", "split_id", "valid_start", "test_start")}
    return known | {
        "commit": provenance.commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "command": f"python -m experiments.sensitivity --models {' '.join(labels)}",
        "seeds": [settings.seed],
        "settings": settings.sensitivity.model_dump(exclude={"models"}),
    }


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.sensitivity", description=__doc__)
    parser.add_argument("--models", nargs="+", metavar="LABEL", help="of train.models (default: sensitivity.models)")
    arguments = parser.parse_args(argv)
    settings = params.load()
    labels = asked_of(arguments.models, settings)
    tables = Tables.read()
    found = measure(holdout_protocols.every(tables, settings), labels, settings)
    made = sensitivity_card.build(found, len(tables.users), settings.seed, settings.evaluate.resamples)
    paths = write(provenance_of(tables, settings, labels) | {"statement": sensitivity_card.NO_GATE} | made)
    firsts = ", ".join(f"{column} {sensitivity_card.best(made, column)}" for column in made["protocols"])
    print(f"sensitivity: {len(made['models'])} models by {len(made['protocols'])} protocols; first of each: {firsts}; "
          f"a diagnostic that cannot feed a gate -> {', '.join(map(str, paths))}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
