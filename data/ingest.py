"""Read a source, quarantine bad rows, write clean events with their users and items, and report what was found."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from config import params
from config.command import exits_cleanly
from config.files import write_bytes
from config.paths import INGESTED, training_consent
from data import ingest_report
from data.cleaning import Ingested, clean
from data.columns import TRAINING_CONSENT, USER
from data.files import DataError, replace_folder, write_json, write_text
from data.readers.sources import Source, read_source
from data.tables import content_hash, write_table


def require_consent(source: Source, settings: params.Params) -> None:
    """Raise a DataError if no column of users or events is consent to training, but an earlier version had one.

    Those who refused would be trained on. `ingest.require_consent` decides instead of the earlier versions if it is set.
    """
    earlier, required = training_consent(settings.dataset), settings.ingest.require_consent
    if any(table is not None and TRAINING_CONSENT in table.columns for table in (source.events, source.users)):
        if source.name != "simulator":
            write_bytes(earlier, b"", replace=False)
    elif required or (required is None and earlier.exists()):
        raise DataError(
            f"ingest: users have no column {TRAINING_CONSENT}, but an earlier version of {settings.dataset} had one or "
            "ingest.require_consent is true; name their table and its column again (USERS=users.csv "
            f"COLUMNS={TRAINING_CONSENT}=...), or add NO_CONSENT=1 (ingest.require_consent: false) to train on the events "
            "of all users"
        )


def write(folder: Path, result: Ingested, source: Source, settings: params.Params, report: dict[str, Any]) -> None:
    """Write the tables, their manifest and the report into `folder`."""
    tables = {"events": result.events, "users": result.users, "items": result.items}
    manifest = {
        "dataset": settings.dataset,
        "dataset_hash": content_hash(tables),
        "source": {"name": source.name, "files": list(source.files), **_positions(source)},
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
        write_json(partial / "report.json", report)
        write_text(partial / "report.html", ingest_report.page(report))


def _positions(source: Source) -> dict[str, Any]:
    """Of collected events, the positions in the event log that were read."""
    found = source.found.get("events", {})
    return {"positions": found["positions"]} if "positions" in found else {}


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
    require_consent(source, settings)
    result = clean(source, settings.ingest, context)
    report = ingest_report.build_report(source, result, settings.dataset)
    ingest_report.require_limits(report, settings.ingest)
    write(arguments.out, result, source, settings, report)
    print(ingest_report.summary(report, pd.Timestamp.now("UTC")))
    counts = result.counts
    print(
        f"ingested {counts['events']:,} events of {counts['users']:,} users and {counts['items']:,} items -> "
        f"{arguments.out}; report: {arguments.out / 'report.html'}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
