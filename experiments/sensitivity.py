"""Compare the order of models between holdout protocols, on events before test_start.

The result is a diagnostic and cannot feed a gate.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from typing import Any

import pandas as pd

from config import params
from config.command import UserError, exits_cleanly
from config.paths import EXPERIMENTS
from data import files
from data.pages import markdown_table
from data.times import now_iso
from experiments.evaluation.holdout_protocols import MEANINGS, TEMPORAL, all_folds, measure_folds
from features.fit import SplitTables
from training import provenance

NO_GATE = "Only the temporal cut (next_item, horizon) can feed a gate; every other protocol is a diagnostic."


def labels_to_fit(labels: list[str] | None, settings: params.Params) -> list[str]:
    """The named labels, by default those of sensitivity.models that are in train.models; at least two."""
    known = settings.train.models
    for label in labels or []:
        if label not in known:
            raise UserError(f"--models {label} is unknown; expected labels of train.models: {', '.join(known)}")
    chosen = list(dict.fromkeys(labels or [label for label in settings.sensitivity.models if label in known]))
    if len(chosen) < 2:
        raise UserError(f"sensitivity: {len(chosen)} models have no order; expected at least 2 (--models)")
    return chosen


def compare_orders(measured: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """The numbers of the report.

    Args:
        measured: protocol -> NDCG@10 by case, with a column for each model and the column `user`.

    Returns:
        {"protocols": {name: {"meaning", "cases", "users", "tau": {"next_item", "horizon"}}}, "models": {label:
        {name: {"mean", "rank"}}}}, models by their rank in the first protocol. Equals share the better rank. Tau is
        Kendall's tau-b of the models' means; None where it is undefined. A protocol without cases is left out.
    """
    measured = {name: table for name, table in measured.items() if len(table)}
    means = pd.DataFrame({name: table.drop(columns="user").mean() for name, table in measured.items()})
    means = means.sort_values(means.columns[0], ascending=False, kind="stable")
    ranks = means.rank(ascending=False, method="min").astype(int)
    tau = means.corr(method="kendall").astype(object).where(lambda known: known.notna(), None)
    protocols = {
        name: {
            "meaning": MEANINGS[name],
            "cases": len(table),
            "users": table["user"].nunique(),
            "tau": {target: tau.loc[name, target] for target in TEMPORAL if target in tau},
        }
        for name, table in measured.items()
    }
    models = {
        label: {name: {"mean": float(means.loc[label, name]), "rank": int(ranks.loc[label, name])} for name in means}
        for label in means.index
    }
    return {"protocols": protocols, "models": models}


def markdown_report(report: Mapping[str, Any]) -> str:
    """The report as Markdown: NDCG@10 and rank of each model, and how similar the orders are."""
    models = [
        {"model": label} | {name: f"{entry['mean']:.4f} ({entry['rank']})" for name, entry in entries.items()}
        for label, entries in report["models"].items()
    ]
    protocols = [
        {"protocol": name, "held-out events and fit": one["meaning"]}
        | {"cases": f"{one['cases']:,}", "users": f"{one['users']:,}"}
        | {f"tau to {target}": "–" if tau is None else f"{tau:+.2f}" for target, tau in one["tau"].items()}
        for name, one in report["protocols"].items()
    ]
    parts = [
        f"# Split sensitivity of {report['dataset']}",
        f"**{NO_GATE}**",
        f"As of {report['date']}, commit {report['commit']}, by `{report['command']}`. Split {report['split_id']} of data "
        f"{report['dataset_hash']}; no event from {report['test_start']} on was read. Hyperparameters are chosen on the "
        "validation period and reused everywhere else.",
        "## NDCG@10 (rank)",
        markdown_table(models),
        "## Protocols",
        "Tau is Kendall's rank correlation of the models with their order by the temporal cut.",
        markdown_table(protocols),
    ]
    return "\n\n".join(parts) + "\n"


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.sensitivity", description=__doc__)
    parser.add_argument("--models", nargs="+", metavar="LABEL", help="of train.models (default: sensitivity.models)")
    arguments = parser.parse_args(argv)
    settings, started = params.load(), time.perf_counter()
    labels = labels_to_fit(arguments.models, settings)
    tables = SplitTables.read()
    names = ("dataset", "dataset_hash", "split_id", "valid_start", "test_start")
    report = {name: tables.manifest[name] for name in names} | {
        "commit": provenance.commit(),
        "date": now_iso(),
        "command": f"python -m experiments.sensitivity --models {' '.join(labels)}",
        "seed": settings.seed,
        "settings": settings.sensitivity.model_dump(exclude={"models"}),
        **compare_orders(measure_folds(all_folds(tables, settings), labels, settings)),
    }
    EXPERIMENTS.mkdir(parents=True, exist_ok=True)
    path = EXPERIMENTS / "sensitivity.md"
    files.write_text(path, markdown_report(report))
    files.write_text(path.with_suffix(".json"), json.dumps(report, indent=1, allow_nan=False) + "\n")
    print(
        f"ranked {len(report['models'])} models by {len(report['protocols'])} protocols in "
        f"{time.perf_counter() - started:.0f} s; a diagnostic that cannot feed a gate; written to {path}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
