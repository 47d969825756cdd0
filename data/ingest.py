"""Read a source, put bad rows aside, and write clean events with the users and items that they name."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from config import params
from config.command import exits_cleanly
from config.paths import INGESTED
from data.cleaning import (
    clean_side,
    drop_duplicates,
    items_of,
    positives,
    quarantined,
    refuse_if_none_left,
    resolve_repeats,
    total_order,
    type_events,
    users_of,
    with_consent,
    with_ids,
)
from data.columns import EVENT_COLUMNS, ITEM, USER
from data.fingerprint import content_hash
from data.products import replacing, write_json, write_table
from data.readers.sources import Source, read


@dataclass(frozen=True)
class Ingested:
    """Clean tables; `counts` says where every row of the source went."""

    events: pd.DataFrame
    users: pd.DataFrame
    items: pd.DataFrame
    quarantine: pd.DataFrame
    counts: dict[str, Any]


def ingest(source: Source, settings: params.Ingest, context: Sequence[str] = ()) -> Ingested:
    """Clean a source: pure, and blind to the order of its rows.

    Returns:
        events in total order, positives only, repeats resolved; every user of them; every item of them and of
        the source's catalogue.

    Raises:
        DataError: nothing is left, or a setting asks for what the source does not hold.
    """
    untaken = int((source.broken["table"] == "events").sum())
    counts: dict[str, Any] = {"rows_read": len(source.events) + untaken}
    typed, reasons = type_events(source.events, settings.time_unit, context)
    refuse_if_none_left(source.events, reasons, untaken)
    aside = [source.broken, quarantined(source.events, reasons, "events")]
    users, bad_users = clean_side(source.users, USER)
    items, bad_items = clean_side(source.items, ITEM)

    events = with_consent(typed.drop(index=reasons.index), source.users, counts)
    events = positives(events, settings, counts)
    ordered = total_order(with_ids(events))
    unique, taken = drop_duplicates(ordered)
    aside += [quarantined(source.events, taken, "events"), bad_users, bad_items]
    counts["duplicates"] = len(ordered) - len(unique) - len(taken)
    resolved = resolve_repeats(unique, settings.repeats)
    counts["repeats_dropped"] = len(unique) - len(resolved)

    kept = list(dict.fromkeys([*EVENT_COLUMNS, *(name for name in context if name in resolved.columns)]))
    events = resolved[kept].reset_index(drop=True)
    quarantine = _joined(aside)
    tables = {"events": events, "users": users_of(events, users), "items": items_of(events, items)}
    counts |= {
        "quarantined": int((quarantine["table"] == "events").sum()),
        "quarantined_by_reason": quarantine.groupby(["table", "reason"]).size().pipe(_by_reason),
        **{name: len(table) for name, table in tables.items()},
    }
    return Ingested(**tables, quarantine=quarantine, counts=counts)


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    filled = [part for part in parts if len(part)]
    columns = ["table", "source_row", "raw", "reason"]
    if not filled:
        return pd.DataFrame({name: [] for name in columns}).astype({"source_row": "int64"})
    return pd.concat(filled)[columns].sort_values(["table", "source_row"], ignore_index=True)


def _by_reason(sizes: pd.Series) -> dict[str, int]:
    return {f"{table}: {reason}": int(size) for (table, reason), size in sizes.items()}


def write(result: Ingested, source: Source, settings: params.Params, folder: Path) -> dict[str, Any]:
    """Write the products as one folder; returns the manifest."""
    tables = {"events": result.events, "users": result.users, "items": result.items}
    rules = settings.ingest.model_dump(include={"event_types", "min_value", "repeats"})
    manifest = {
        "dataset": settings.dataset,
        "dataset_hash": content_hash(tables),
        "source": {"name": source.name, "files": list(source.files)},
        "rules": rules,
        "counts": result.counts,
    }
    with replacing(folder) as partial:
        for name, table in (tables | {"quarantine": result.quarantine}).items():
            write_table(table, partial / f"{name}.parquet")
        if source.impressions is not None:
            shown = source.impressions
            write_table(shown[shown[USER].isin(set(result.users[USER]))], partial / "impressions.parquet")
        if source.oracle is not None:
            source.oracle.save(partial / "oracle.npz")
        write_json(manifest, partial / "manifest.json")
    return manifest


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(prog="python -m data.ingest", description=__doc__)
    parser.add_argument("--params", default="params.yaml", help="settings (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=INGESTED, help="folder of the products (default: %(default)s)")
    arguments = parser.parse_args(argv)
    settings = params.load(arguments.params)
    context = settings.featurize.context
    source = read(settings.ingest, settings.simulate, settings.seed, context)
    result = ingest(source, settings.ingest, context)
    manifest = write(result, source, settings, arguments.out)
    counts = manifest["counts"]
    print(
        f"ingest: {counts['events']:,} events of {counts['users']:,} users, {counts['items']:,} items from "
        f"{counts['rows_read']:,} rows ({counts['quarantined']:,} in quarantine, {counts['duplicates']:,} "
        f"duplicates, {counts['repeats_dropped']:,} repeats, {counts['without_consent']:,} without consent); "
        f"see {arguments.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
