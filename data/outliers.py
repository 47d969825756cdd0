"""Events far from all others in time: one wrong clock must not move the beginning or the end of the data."""

from __future__ import annotations

import numpy as np
import pandas as pd

from config import params
from data.columns import DAY, EVENT_TIME, KNOWN_TIME, MICROSECONDS
from data.tables import microseconds
from data.times import to_iso


def find_outliers(events: pd.DataFrame, settings: params.Outliers, now_us: int | None) -> pd.Series:
    """Events that no bulk of others supports (docs/data.md): index of the event -> reason.

    Args:
        events: with valid event_time and known_time.
        now_us: moment of the ingest, which no event lies after; None: not compared, as for simulated events.
    """
    times, known = microseconds(events[EVENT_TIME]), microseconds(events[KNOWN_TIME])
    reasons = np.full(len(events), "", dtype=object)
    if now_us is not None and settings.future_days is not None:
        latest = now_us + round(settings.future_days * DAY)
        # If most events lie ahead, the clock of this machine is wrong, or the data are made up.
        if (known > latest).sum() * 2 <= len(events):
            rule = f"lies more than {settings.future_days:g} days after this ingest (ingest.outliers.future_days)"
            reasons[known > latest] = f"{KNOWN_TIME} {rule}"
            reasons[times > latest] = f"{EVENT_TIME} {rule}"
    inside = times[reasons == ""]
    if len(inside) >= settings.events_per_outlier:
        first, last = _bulk(np.sort(inside), settings)
        rule = "lies apart from all others, {} {} (ingest.outliers)"
        reasons[(reasons == "") & (times < first)] = f"{EVENT_TIME} {rule.format('before', _second(first))}"
        reasons[(reasons == "") & (times > last)] = f"{EVENT_TIME} {rule.format('after', _second(last))}"
    return pd.Series(reasons, index=events.index, dtype=object)[reasons != ""]


def _bulk(ordered: np.ndarray, settings: params.Outliers) -> tuple[int, int]:
    """The first and the last time of the bulk: what lies outside is little, and a long pause away."""
    size = len(ordered)
    before = size // settings.events_per_outlier
    after = min(before, max(settings.few, int(size * settings.max_share_after)))
    pauses = np.diff(ordered)
    core = pauses[before : size - 1 - after]
    long = pauses >= max(
        settings.min_pause_days * DAY,
        settings.min_pause_share * core.sum(),
        settings.min_pause_ratio * core.max(initial=0),
    )
    starts, ends = np.flatnonzero(long[:before]) + 1, np.flatnonzero(long[size - 1 - after :]) + size - 1 - after
    return ordered[starts[-1] if len(starts) else 0], ordered[ends[0] if len(ends) else -1]


def _second(time_us: int) -> str:
    return to_iso(time_us // MICROSECONDS * MICROSECONDS)
