"""Materialize profiles and item trends into the online store, from a dataset or from JSON lines.

A JSON line holds one event, traits or consent of a user:
{"user_id": "u1", "event_time": "2026-06-01T20:00:00Z", "item_id": "m1", "event_type": "play", "value": 1}
{"user_id": "u1", "event_time": "2026-06-01T20:00:00Z", "traits": {"plan": "free"}}
{"user_id": "u1", "event_time": "2026-06-01T20:00:00Z", "consent": {"personalization": true}}
Each may also have an event_id and a known_time (default: now).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from config import params
from config.command import exits_cleanly
from config.paths import FEATURES, INGESTED, SPLIT
from data.tables import read_table
from features.feast_sdk import open_feast
from features.feature_files import Features, load_features
from features.materialization import MaterializeError, parse_time, profiles_at, trends_at, write_lines, write_profiles
from features.online.connect import connect, read_settings
from features.online.profile import LATEST_US
from features.online.store import Policy, ProfileStore


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m features.materialize", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--params", default="params.yaml", help="settings (default: %(default)s)")
    parser.add_argument("--events", metavar="FILE", help="store these JSON lines; - reads standard input")
    parser.add_argument("--until", metavar="TIME", help="store what the dataset knew at this time (default: all)")
    arguments = parser.parse_args(argv)
    settings = params.load(arguments.params)
    store = connect(settings.dataset, read_settings(), writing=True, open_feast=open_feast)
    policy = Policy.from_days(settings.online.max_events, settings.online.ttl_days)
    current = store.policy()
    if arguments.events is not None:
        numeric_ids = () if current is None else current.numeric_ids
        complete = current is None or current.complete
        store.configure(replace(policy, complete=complete, numeric_ids=numeric_ids))
        with sys.stdin if arguments.events == "-" else _open(arguments.events) as lines:
            write_lines(store, lines, settings.ingest, numeric_ids)
        return 0
    features = load_features(FEATURES / "test")
    policy = replace(policy, numeric_ids=tuple(features.description["numeric_ids"]))
    # A store that already serves continues to serve meanwhile.
    store.configure(replace(policy, complete=current is not None and current.complete))
    _write_dataset(store, features, arguments.until)
    store.configure(policy)
    return 0


def _write_dataset(store: ProfileStore, features: Features, until: str | None) -> None:
    until_us = features.description["until_us"] if until is None else parse_time("--until", until)
    events = read_table(SPLIT / "events.parquet", "python -m data.split")
    users = read_table(INGESTED / "users.parquet", "python -m data.ingest")
    # Without --until all events: what became known after the last event happened counts too.
    profiles = profiles_at(events, users, LATEST_US if until is None else until_us)
    count = write_profiles(store, profiles)
    trends = trends_at(features, until_us)
    store.write_trends(trends)
    location = store.engine.location
    print(f"materialized {count:,} profiles and the trends of {len(trends.item_ids):,} items -> {location}")


def _open(path: str) -> TextIO:
    if not Path(path).is_file():
        raise MaterializeError(f"--events is {path}; there is no such file")
    return Path(path).open(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
