"""VERB sensitivity: compare the order of models between holdout protocols, on events before test_start.

The result is a diagnostic and cannot feed a gate.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from config import params
from config.command import UserError, exits_cleanly
from config.paths import EXPERIMENTS
from data.times import now_iso
from experiments.evaluation.holdout_protocols import all_folds, measure_folds
from experiments.leaderboard.sensitivity_card import NO_GATE, best_model, build_card, html_card, markdown_card
from features.fit import SplitTables
from training import provenance


def labels_to_fit(labels: list[str] | None, settings: params.Params) -> list[str]:
    """The named labels, by default those of sensitivity.models that are in train.models.

    Raises:
        UserError: a label is unknown, or fewer than two are left.
    """
    known = settings.train.models
    for label in labels or []:
        if label not in known:
            raise UserError(f"--models {label} is unknown; expected labels of train.models: {', '.join(known)}")
    chosen = list(dict.fromkeys(labels or [label for label in settings.sensitivity.models if label in known]))
    if len(chosen) < 2:
        raise UserError(f"sensitivity: {len(chosen)} models have no order; expected at least 2 (--models)")
    return chosen


def provenance_of(tables: SplitTables, settings: params.Params, labels: list[str]) -> dict[str, Any]:
    """The provenance fields of the card."""
    names = ("dataset", "dataset_hash", "split_id", "valid_start", "test_start")
    return {name: tables.manifest[name] for name in names} | {
        "commit": provenance.commit(),
        "date": now_iso(),
        "command": f"python -m experiments.sensitivity --models {' '.join(labels)}",
        "seeds": [settings.seed],
        "settings": settings.sensitivity.model_dump(exclude={"models"}),
    }


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.sensitivity", description=__doc__)
    parser.add_argument("--models", nargs="+", metavar="LABEL", help="of train.models (default: sensitivity.models)")
    arguments = parser.parse_args(argv)
    settings, started = params.load(), time.perf_counter()
    labels = labels_to_fit(arguments.models, settings)
    tables = SplitTables.read()
    values = measure_folds(all_folds(tables, settings), labels, settings)
    numbers = build_card(values, len(tables.users), settings.seed, settings.evaluate.resamples)
    card = provenance_of(tables, settings, labels) | {"statement": NO_GATE} | numbers
    texts = {
        "json": json.dumps(card, indent=1, allow_nan=False) + "\n",
        "md": markdown_card(card),
        "html": html_card(card),
    }
    EXPERIMENTS.mkdir(parents=True, exist_ok=True)
    for suffix, text in texts.items():
        (EXPERIMENTS / f"sensitivity.{suffix}").write_text(text, encoding="utf-8")
    leaders = ", ".join(f"{column} {best_model(card, column)}" for column in card["protocols"])
    print(
        f"ranked {len(card['models'])} models by {len(card['protocols'])} protocols in "
        f"{time.perf_counter() - started:.0f} s: first of each: {leaders}; a diagnostic that cannot feed a gate; "
        f"written to {EXPERIMENTS}/sensitivity.html"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
