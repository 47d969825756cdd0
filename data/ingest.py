"""Read a source, quarantine bad rows, and write clean events with their users and items."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from config import params
from config.command import exits_cleanly
from config.paths import INGESTED
from data.cleaning import Ingested, clean
from data.columns import USER
from data.files import replace_folder, write_json
from data.readers.sources import Source, read_source
from data.tables import content_hash, write_table


def write(folder: Path, result: Ingested, source: Source, settings: params.Params) -> None:
    """Write the tables and their manifest into `folder`."""
    tables = {"events": result.events, "users": result.users, "items": result.items}
    manifest = {
        "dataset": settings.dataset,
        "dataset_hash": content_hash(tables),
        "source": {"name": source.name, "files": list(source.files)},
        "rules": settings.ingest.model_dump(include={"event_types", "min_value", "repeats"}),
        "numeric_ids": result.numeric_ids,
        "counts": result.counts,
    }
    with replace_folder(folder) as partial:
        for name, table in (tables | {"quarantine": result.quarantine}).items():
            write_table(partial / f"{name}.parquet", table)
        if source.impressions is not None:
            kept = source.impressions[USER].isin(set(result.users[USER]))
            write_table(partial / "impressions.parquet", source.impressions[kept])
        if source.oracle is not None:
            source.oracle.save(partial / "oracle.npz")
        write_json(partial / "manifest.json", manifest)


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(prog="python -m data.ingest", description=__doc__)
    parser.add_argument("--params", default="params.yaml", help="settings (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=INGESTED, help="output folder (default: %(default)s)")
    arguments = parser.parse_args(argv)
    settings = params.load(arguments.params)
    context = settings.featurize.context
    source = read_source(settings.ingest, settings.simulate, settings.seed, context)
    result = clean(source, settings.ingest, context)
    write(arguments.out, result, source, settings)
    counts = result.counts
    print(
        f"ingested {counts['events']:,} events of {counts['users']:,} users and {counts['items']:,} items from "
        f"{counts['rows_read']:,} rows ({counts['quarantined']:,} quarantined, {counts['duplicates']:,} duplicates, "
        f"{counts['repeats_dropped']:,} repeats, {counts['without_consent']:,} without consent) -> {arguments.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
