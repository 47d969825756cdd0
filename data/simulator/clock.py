"""The simulated world's time: quarters of a day, counted from the midnight before the period starts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from config.params import Simulate
from data.columns import DAY, HOUR, MICROSECONDS

QUARTER = 6 * HOUR  # night, morning, afternoon, evening: preference is constant within one
DAYPARTS = 4
MONDAY = 4  # 1970-01-01 was a Thursday: day 4 was the first Monday


@dataclass(frozen=True)
class Clock:
    """First and last moment of the period, microseconds since 1970; `origin` is start's midnight."""

    start: int
    end: int

    @classmethod
    def of(cls, settings: Simulate) -> Clock:
        """A start without time zone is taken as UTC."""
        start = settings.start if settings.start.tzinfo else settings.start.replace(tzinfo=UTC)
        start_us = (start - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        start_us -= start_us % MICROSECONDS
        return cls(start_us, start_us + settings.days * DAY)

    @property
    def origin(self) -> int:
        return self.start - self.start % DAY

    @property
    def quarters(self) -> int:
        return -(-(self.end - self.origin) // QUARTER)

    def quarter(self, times: np.ndarray) -> np.ndarray:
        """Index of the quarter day; times outside the period fall in its first or last."""
        return np.clip((times - self.origin) // QUARTER, 0, self.quarters - 1)

    def progress(self, times: np.ndarray) -> np.ndarray:
        """0 at the start of the period, 1 at its end."""
        return np.clip((times - self.start) / (self.end - self.start), 0.0, 1.0)


def daypart(times: np.ndarray) -> np.ndarray:
    """0 night, 1 morning, 2 afternoon, 3 evening (UTC)."""
    return times % DAY // QUARTER


def is_weekend(times: np.ndarray) -> np.ndarray:
    """1 on Saturday and Sunday, else 0."""
    return ((times // DAY - MONDAY) % 7 >= 5).astype(np.int64)


def timestamps(times: np.ndarray) -> pd.DatetimeIndex:
    """Microseconds since 1970 -> UTC timestamps of microsecond resolution."""
    return pd.DatetimeIndex(np.asarray(times).astype("datetime64[us]")).tz_localize("UTC")
