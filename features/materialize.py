"""Fill the online store from a data set's products, or with single events, one JSON object a line.

A line states one thing about a user at one time:
{"user_id": "u1", "event_time": "2026-06-01T20:00:00Z", "item_id": "m1", "event_type": "play", "value": 1}
{"user_id": "u1", "event_time": "2026-06-01T20:00:00Z", "traits": {"plan": "free"}}
{"user_id": "u1", "event_time": "2026-06-01T20:00:00Z", "consent": {"personalisation": true}}
event_id and known_time (now, if not stated) may be stated too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd

from config import params
from config.command import UserError, exits_cleanly
from config.paths import FEATURES, INGESTED, SPLIT
from data.columns import EVENT_ID, EVENT_TIME, EVENT_TYPE, ITEM, KNOWN_TIME, TRAINING_CONSENT, USER
from data.products import read_table
from data.time_columns import microseconds
from features.feast_store.connect import open_feast
from features.feature_files import Features, load
from features.online.connect import connect, settings
from features.online.errors import ProfileError
from features.online.item_trends import ItemTrends
from features.online.json_lines import instant, parse
from features.online.profile import LATEST_US, Event, Profile, Stated, make
from features.online.store import Policy, ProfileStore
from features.trends import last_refresh


class FillError(UserError):
    """Something could not be stored; the text says what, and how much was."""


def profiles(events: pd.DataFrame, users: pd.DataFrame, until_us: int) -> Iterator[Profile]:
    """One profile per user of what had happened before a moment and was known by then.

    A user's traits count from the first event on, as `features.sequences` has it.
    """
    event_us, known_us = microseconds(events[EVENT_TIME]), microseconds(events[KNOWN_TIME])
    seen = events.assign(event_us=event_us, known_us=known_us)[(event_us < until_us) & (known_us <= until_us)]
    seen = seen.sort_values(USER, kind="stable")
    owners, starts = np.unique(seen[USER].to_numpy(dtype=object), return_index=True)
    columns = ("event_us", EVENT_ID, "known_us", ITEM, EVENT_TYPE)
    listed = [Event(*row) for row in zip(*(seen[name].tolist() for name in columns), strict=True)]
    stated = _traits(users)
    for user, begin, end in zip(owners, starts, np.append(starts, len(listed))[1:], strict=True):
        yield _profile(user, listed[begin:end], stated.get(user, {}))


def _profile(user_id: str, events: list[Event], traits: dict[str, object]) -> Profile:
    first, known_us = min(events), min(event.known_us for event in events)
    words = {name: Stated(first.time_us, first.event_id, known_us, value) for name, value in traits.items()}
    return make(user_id, events, words)


def _traits(users: pd.DataFrame) -> dict[str, dict[str, object]]:
    """user_id -> column -> value, of the columns that `features.featurize` takes as traits; nulls left out."""
    names = [
        column
        for column in users.columns
        if column not in (USER, TRAINING_CONSENT) and not pd.api.types.is_datetime64_any_dtype(users[column])
    ]
    rows = zip(users[USER].tolist(), *(users[name].tolist() for name in names), strict=True)
    return {
        user: {name: value for name, value in zip(names, values, strict=True) if not pd.isna(value)}
        for user, *values in rows
    }


def trends(features: Features, until_us: int) -> ItemTrends:
    """Trends as of the last refresh at or before a moment: what a live platform would know."""
    moment = int(last_refresh(np.int64(until_us), features.description["refresh_minutes"]))
    return ItemTrends.of(features.trend_log(), features.vocabulary, features.description["channels"], moment)


def fill(store: ProfileStore, made: Iterator[Profile], batch: int) -> int:
    """Store profiles by batches; how many there were."""
    count = 0
    while some := list(islice(made, batch)):
        store.upsert(some)
        count += len(some)
    return count


def follow(store: ProfileStore, lines: TextIO, ingest: params.Ingest, batch: int) -> int:
    """Store what lines state, and print `stored N lines` after each batch that is safe.

    Raises:
        FillError: at the end, with each line that was not taken and why; all others are stored.
    """
    faults: list[str] = []
    read = 0
    while some := list(islice(lines, batch)):
        changes = []
        for number, line in enumerate(some, start=read + 1):
            try:
                changes += parse(line, time.time_ns() // 1000, ingest.event_types, ingest.min_value)
            except ProfileError as error:
                faults.append(f"line {number}: {error}")
        store.upsert(changes)
        read += len(some)
        print(f"stored {read - len(faults):,} lines", flush=True)
    if faults:
        raise FillError("\n".join(faults))
    return read


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Run the verb from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m features.materialize", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--params", default="params.yaml", help="settings (default: %(default)s)")
    parser.add_argument("--events", metavar="FILE", help="store these JSON lines, - reads them from standard input")
    parser.add_argument("--until", metavar="TIME", help="of the data set, what was known then (default: all)")
    parser.add_argument("--batch", type=int, default=500, help="users or lines at once (default: %(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.batch < 1:
        raise FillError(f"--batch is {arguments.batch}; expected at least 1")
    chosen = params.load(arguments.params)
    online = chosen.online
    store = connect(chosen.dataset, settings(), writing=True, feast=open_feast)
    policy = Policy.of(online.max_events, online.ttl_days)
    held = store.policy()
    if arguments.events is not None:
        store.configure(replace(policy, filled=held is None or held.filled))
        with sys.stdin if arguments.events == "-" else _opened(arguments.events) as lines:
            follow(store, lines, chosen.ingest, arguments.batch)
        return 0
    # What is served now goes on being served.
    store.configure(replace(policy, filled=held is not None and held.filled))
    _from_products(store, arguments.until, arguments.batch)
    store.configure(policy)
    return 0


def _from_products(store: ProfileStore, until: str | None, batch: int) -> None:
    features = load(FEATURES / "test")
    until_us = features.description["until_us"] if until is None else instant("--until", until)
    events = read_table(SPLIT / "events.parquet", "python -m data.split")
    users = read_table(INGESTED / "users.parquet", "python -m data.ingest")
    # All of it: what became known after the last event had happened counts too.
    count = fill(store, profiles(events, users, LATEST_US if until is None else until_us), batch)
    found = trends(features, until_us)
    store.write_trends(found)
    print(f"fill: {count:,} profiles and the trends of {len(found.item_ids):,} items -> {store.health()['store']}")


def _opened(path: str) -> TextIO:
    if not Path(path).is_file():
        raise FillError(f"--events is {path}; there is no such file")
    return Path(path).open(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
