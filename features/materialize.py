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
from config.paths import DEPLOYMENTS, FEATURES, INGESTED, SPLIT, edge, state
from config.redact import without_credentials
from data.tables import read_table
from data.times import now_us
from features.feast_sdk import open_feast
from features.feature_files import Features, load_features
from features.materialization import MaterializeError, parse_time, profiles_at, trends_at, write_lines, write_profiles
from features.online.connect import SQLITE_SCHEME, connect, consent_file, read_settings
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
        help="whether users without an answer to consent count as not asked or as denied; required where answers may be "
        "lost: a shared store is empty, files of the embedded one are gone, or a backup was restored",
    )
    parser.add_argument(
        "--restored",
        action="store_true",
        help="only note that a backup was restored: nobody is read until --no-answer says what holds",
    )
    arguments = parser.parse_args(argv)
    if arguments.restored and (arguments.events or arguments.until or arguments.no_answer):
        parser.error("--restored takes no other option; load the answers after it")
    settings = params.load(arguments.params)
    store = _open_store(settings.dataset, arguments.no_answer)
    current = store.policy()
    if arguments.restored:
        if current is None:
            raise MaterializeError(f"{store.engine.location} holds nothing of {settings.dataset}")
        store.configure(replace(current, complete=False, restored_us=now_us()))
        print(f"nobody is read from {store.engine.location} until features.materialize --no-answer says what holds")
        return 0
    is_restored = current is not None and not current.complete and current.restored_us
    if is_restored and arguments.events is None and arguments.no_answer is None:
        raise MaterializeError(
            f"{store.engine.location} was restored from a backup, which lacks later answers to consent. Load them with "
            f"--events FILE. If all are there, add --no-answer {NOT_ASKED}; else --no-answer {DENIED}: no yes from "
            "before the restore holds, and nobody without an answer gets personal answers"
        )
    before = current or Policy(0, None, complete=False, lost_consent=arguments.no_answer == DENIED)
    policy = replace(
        Policy.from_days(settings.online.max_events, settings.online.ttl_days),
        complete=arguments.events is None or current is None or current.complete or arguments.no_answer is not None,
        lost_consent=before.lost_consent if arguments.no_answer is None else arguments.no_answer == DENIED,
        restored_us=0 if arguments.no_answer == NOT_ASKED else before.restored_us,
        numeric_ids=before.numeric_ids,
    )
    if arguments.events is None or current is None:
        features = load_features(FEATURES / "test")
        policy = replace(policy, numeric_ids=tuple(features.description["numeric_ids"]))
    # What holds for consent changes once all is stored. A store that already serves continues to serve meanwhile.
    meanwhile = {name: getattr(before, name) for name in ("complete", "lost_consent", "restored_us")}
    if arguments.events is None:
        store.configure(replace(policy, **meanwhile))
        _write_dataset(store, features, arguments.until)
    else:
        with sys.stdin if arguments.events == "-" else _open(arguments.events) as lines:
            store.configure(replace(policy, **meanwhile))
            errors = write_lines(store, lines, settings.ingest, policy.numeric_ids)
        if errors:  # each may be a no
            raise MaterializeError("\n".join(errors))
    store.configure(policy)
    if not policy.complete:
        print(f"nobody is read from {store.engine.location} until features.materialize stores the dataset")
    return 0


def _open_store(dataset: str, no_answer: str | None) -> ProfileStore:
    """The store to write. Raises MaterializeError if it may have lost answers, and `no_answer` does not say so."""
    settings = read_settings()
    is_embedded, path = settings.store.startswith(SQLITE_SCHEME), Path(settings.store.removeprefix(SQLITE_SCHEME))
    has_file = not is_embedded or consent_file(path).exists()
    # Who has served had a store. API keys and served log are of all datasets, as is the file.
    has_served = (state() / DEPLOYMENTS / f"{dataset}.json").exists() or (not has_file and any(edge().glob("*")))
    lost = MaterializeError(
        f"{without_credentials(settings.store)} holds no answers to consent: it is new, or it lost them. If nobody was "
        f"asked before, add --no-answer {NOT_ASKED}; else --no-answer {DENIED}: nobody without an answer gets personal "
        "answers"
    )
    if no_answer is None and not has_file and (has_served or path.exists()):
        raise lost  # before the files are created, which would look like a store that holds all answers
    store = connect(dataset, settings, True, open_feast, creates_consent=no_answer is not None)
    if no_answer is None and (has_served or not is_embedded) and store.policy() is None:
        raise lost
    return store


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
