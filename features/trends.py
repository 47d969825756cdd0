"""Item popularity as of a moment: counts over trailing windows, and decayed counts.

Legend: T moments, N item rows (including PAD's, always 0), C channels, E events.

Channels are named `all` (every event so far), `window_7d` (the trailing 7 days) and `half_life_7d`
(an event counts 2^(-age / 7 days)).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data.columns import DAY, MINUTE
from features.vocabulary import PAD

ALL = "all"


def window_channel(days: int | None) -> str:
    """Name of the channel that counts the events of the last `days`; None: all events."""
    return ALL if days is None else f"window_{days}d"


def half_life_channel(days: int) -> str:
    """Name of the channel whose events lose half their weight in `days`."""
    return f"half_life_{days}d"


def last_refresh(time_us: np.ndarray | np.int64, refresh_minutes: int) -> np.ndarray:
    """The last refresh at or before each moment: what a live platform would know."""
    step = refresh_minutes * MINUTE
    return np.asarray(time_us) // step * step


class TrendLog:
    """Item trends as of any moment, computed from (E,) item rows, event times and known times in microseconds.

    An event counts at moment t when `event_time < t` and `known_time <= t`. PAD is ignored.
    """

    def __init__(self, items: np.ndarray, times: np.ndarray, known: np.ndarray, num_items: int) -> None:
        kept = items != PAD
        self.num_items = num_items
        self._times = times[kept]
        self._enter = np.maximum(self._times + 1, known[kept])
        order = np.argsort(self._enter, kind="stable")
        self._items, self._times, self._enter = items[kept][order], self._times[order], self._enter[order]
        self._leave: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def at(self, moments: np.ndarray, channels: Sequence[str]) -> np.ndarray:
        """(T, N, C) float32 trends as of each of the (T,) moments, microseconds in ascending order."""
        moments = np.asarray(moments, dtype=np.int64)
        trends = np.empty((len(moments), self.num_items, len(channels)), dtype=np.float32)
        for position, channel in enumerate(channels):
            trends[:, :, position] = self._channel(moments, channel)
        return trends

    def _channel(self, moments: np.ndarray, channel: str) -> np.ndarray:
        if channel == ALL:
            return self._count(self._enter, self._items, moments)
        kind, days = channel.rsplit("_", 1)
        span = int(days.removesuffix("d")) * DAY
        if kind == "half_life":
            return self._decayed(moments, span)
        leave, items = self._leaving(span)
        return self._count(self._enter, self._items, moments) - self._count(leave, items, moments)

    def _leaving(self, span: int) -> tuple[np.ndarray, np.ndarray]:
        if span not in self._leave:
            leave = np.maximum(self._enter, self._times + span + 1)
            order = np.argsort(leave, kind="stable")
            self._leave[span] = leave[order], self._items[order]
        return self._leave[span]

    def _count(self, instants: np.ndarray, items: np.ndarray, moments: np.ndarray) -> np.ndarray:
        """(T, N) number of events whose instant is at or before each moment. `instants` are ascending."""
        begin, end = np.searchsorted(instants, moments[[0, -1]], side="right")
        counts = np.zeros((len(moments), self.num_items), dtype=np.int32)
        counts[0] = np.bincount(items[:begin], minlength=self.num_items)
        row = np.searchsorted(moments, instants[begin:end], side="left")
        np.add.at(counts, (row, items[begin:end]), 1)
        return counts.cumsum(axis=0, dtype=np.int32)

    def _decayed(self, moments: np.ndarray, span: int) -> np.ndarray:
        """(T, N) sums of 2^(-age / span), updated from moment to moment."""
        trends = np.zeros((len(moments), self.num_items))
        bounds = np.searchsorted(self._enter, moments, side="right")
        begin = 0
        for row, (moment, end) in enumerate(zip(moments, bounds, strict=True)):
            if row:
                trends[row] = trends[row - 1] * 2.0 ** (-(moment - moments[row - 1]) / span)
            weights = 2.0 ** (-(moment - self._times[begin:end]) / span)
            trends[row] += np.bincount(self._items[begin:end], weights=weights, minlength=self.num_items)
            begin = end
        return trends


class TrendSnapshot:
    """(N, C) trends of named channels, frozen at one moment, as a model artifact contains them."""

    def __init__(self, values: np.ndarray, channels: Sequence[str], time_us: int) -> None:
        self.values, self.channels, self.time_us = values, list(channels), time_us

    def at(self, moments: np.ndarray, channels: Sequence[str]) -> np.ndarray:
        """(T, N, C): the same values for every moment."""
        columns = [self.channels.index(channel) for channel in channels]
        return np.broadcast_to(self.values[:, columns], (len(moments), len(self.values), len(columns)))
