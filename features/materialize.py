"""Materialize profiles and item trends into the online store, from a dataset or from JSON lines.

A JSON line holds one event, traits or consent of a user:
{"user_id": "u1", "event_time": "2026-06-01T20:00:00Z", "item_id": "m1", "event_type": "play", "value": 1}
{"user_id": "u1", "event_time": "2026-06-01T20:00:00Z", "traits": {"plan": "free"}}
{"user_id": "u1", "event_time": "2026-06-01T20:00:00Z", "consent": {"personalization": true}}
Each may also have an event_id and a known_time (default: now); consent also a source, and a time at which a yes expires.
Answers to consent are only ever added: the newest event_time wins, and of two at the same time the no.
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
from features.online.connect import SQLITE_SCHEME, connect, read_settings
from features.online.profile import LATEST_US
from features.online.store import Policy, ProfileStore

NOT_ASKED, DENIED = "not-asked", "denied"


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m features.materialize", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--params", default="params.yaml", help="settings (default: %(default)s)")
    parser.add_argument("--events", metavar="FILE", help="store these JSON lines; - reads standard input")
    parser.add_argument("--until", metavar="TIME", help="store what the dataset knew at this time (default: all)")
    parser.add_argument(
        "--no-answer",
        choices=(NOT_ASKED, DENIED),
        help="whether users without an answer to consent count as not asked or as denied; required where a shared store "
        "is empty, since it is either new or has lost all answers",
    )
    arguments = parser.parse_args(argv)
    settings = params.load(arguments.params)
    store = connect(settings.dataset, read_settings(), writing=True, open_feast=open_feast)
    current = store.policy()
    policy = replace(
        Policy.from_days(settings.online.max_events, settings.online.ttl_days),
        lost_consent=_lost_consent(arguments.no_answer, store, current),
    )
    if arguments.events is not None:
        if current is not None:
            policy = replace(policy, complete=current.complete, numeric_ids=current.numeric_ids)
        with sys.stdin if arguments.events == "-" else _open(arguments.events) as lines:
            # Nobody is read from a new store while a file may still hold their no; standard input may never end.
            is_readable = policy.complete and (current is not None or arguments.events == "-")
            store.configure(replace(policy, complete=is_readable))
            errors = write_lines(store, lines, settings.ingest, policy.numeric_ids)
        store.configure(policy)
        if errors:
            raise MaterializeError("\n".join(errors))
        return 0
    features = load_features(FEATURES / "test")
    policy = replace(policy, numeric_ids=tuple(features.description["numeric_ids"]))
    # A store that already serves continues to serve meanwhile.
    store.configure(replace(policy, complete=current is not None and current.complete))
    _write_dataset(store, features, arguments.until)
    store.configure(policy)
    return 0


def _lost_consent(no_answer: str | None, store: ProfileStore, current: Policy | None) -> bool:
    """Whether users without a consent record may have lost it."""
    if no_answer is not None:
        return no_answer == DENIED
    if current is not None:
        return current.lost_consent
    if not store.engine.location.startswith(SQLITE_SCHEME):
        raise MaterializeError(
            f"{store.engine.location} is empty: it is new, or it lost its data. If nobody was asked for consent before, "
            f"add --no-answer {NOT_ASKED}; else --no-answer {DENIED}: nobody without an answer gets personal answers"
        )
    return False  # the consent of an embedded store lies in a file of its own


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
