"""Features of any cut, or of any part of the events, in memory: for rolling windows and for diagnostics.

Nothing here holds an event at or after `test_start`: whatever is chosen or looked at by folds is no look at the test
window.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np
import pandas as pd

from config import params
from config.paths import INGESTED, SPLIT
from data.columns import EVENT_ID, EVENT_TIME, USER
from data.products import read_json, read_table
from features.feature_files import Features
from features.featurize import build_log, featurize, microseconds, origin


@dataclass(frozen=True)
class Tables:
    """What the features of a fold are made of. `events` lie before `test_start`, in the order of a Log of them."""

    events: pd.DataFrame
    users: pd.DataFrame
    items: pd.DataFrame
    manifest: dict

    @classmethod
    def of(cls, events: pd.DataFrame, users: pd.DataFrame, items: pd.DataFrame, manifest: dict) -> Tables:
        """Leave out the test window, and put the rest in the order of a log: by user, then in total order."""
        events = events[microseconds(events[EVENT_TIME]) < manifest["test_start_us"]]
        owner = pd.Series(np.arange(len(users)), index=users[USER].to_numpy()).loc[events[USER]].to_numpy()
        order = np.lexsort([events[EVENT_ID].to_numpy().astype(str), microseconds(events[EVENT_TIME]), owner])
        return cls(events.iloc[order].reset_index(drop=True), users, items, manifest)

    @classmethod
    def read(cls) -> Tables:
        """What ingest and split wrote."""
        return cls.of(
            read_table(SPLIT / "events.parquet", "python -m data.split"),
            read_table(INGESTED / "users.parquet", "python -m data.ingest"),
            read_table(INGESTED / "items.parquet", "python -m data.ingest"),
            read_json(SPLIT / "manifest.json", "python -m data.split"),
        )

    @property
    def times(self) -> np.ndarray:
        """(E,) microseconds of the events."""
        return microseconds(self.events[EVENT_TIME])


def rolling(tables: Tables, count: int) -> list[tuple[int, int]]:
    """(start, stop) in microseconds of windows as long as the validation window, end to end, oldest first.

    The last one is the validation window itself. Fewer than `count` where the past is too short: before every window
    lie at least as many events to learn from as in it to foretell.
    """
    start, stop = tables.manifest["valid_start_us"], tables.manifest["test_start_us"]
    windows = [(start - back * (stop - start), stop - back * (stop - start)) for back in range(count)]
    return list(takewhile(lambda window: _enough_before(tables.times, *window), windows))[::-1]


def _enough_before(times: np.ndarray, start: int, stop: int) -> bool:
    before, inside = int((times < start).sum()), int(((times >= start) & (times < stop)).sum())
    return before >= inside > 0


def at(tables: Tables, start_us: int, stop_us: int, settings: params.Params, cut: str = "valid") -> Features:
    """Features fitted on what was known before `start_us`; their log ends at `stop_us`.

    Args:
        cut: `valid` has a fit find its recipe in that window, `test` has it follow the one that it is given.
    """
    events = tables.events[tables.times < stop_us]
    made = featurize(events, tables.users, tables.items, start_us, settings.featurize, settings.seed)
    return _stamped(made, tables, settings, cut, stop_us)


def of_part(tables: Tables, kept: np.ndarray, settings: params.Params) -> tuple[Features, Features]:
    """Features fitted on a part of the events, whenever they were, and the same with a log of all events.

    Row e of the second log is row e of `tables.events`: histories are read there. Learned from, and counted as a
    trend, is only what the first log holds.

    Args:
        kept: (E,) bool, the events to learn from.
    """
    stop = tables.manifest["test_start_us"]
    made = featurize(tables.events[kept], tables.users, tables.items, stop, settings.featurize, settings.seed)
    learned = _stamped(made, tables, settings, "test", stop)
    log = build_log(tables.events, tables.users, learned.vocabulary, learned.description["encoders"])
    return learned, replace(learned, log=log)


def _stamped(made: dict, tables: Tables, settings: params.Params, cut: str, until_us: int) -> Features:
    made["description"] |= origin(tables.manifest, settings.ingest.repeats, cut, until_us)
    return Features(**made)
