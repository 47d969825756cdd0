"""The simulated world: its clock, and how strong each force of preference is.

The strengths are in units of log preference unless stated otherwise. They are constants, not parameters: they were
tuned together so that the default world is as hard as real logs (popularity far below personal models, and those far
below the oracle). Sizes, dates and seed are in params.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from config.params import Simulate
from data.columns import DAY, HOUR, MICROSECONDS
from data.times import from_datetime

QUARTER = 6 * HOUR  # night, morning, afternoon, evening: preferences are constant within a quarter of a day
DAYPARTS = 4
MONDAY = 4  # 1970-01-01 was a Thursday: day 4 was the first Monday

LATENTS = 24  # width of the taste space
TASTE = 8.0  # weight of the match between a user's taste and an item
DEMOGRAPHY = 0.45  # share of a taste vector that age, gender, country and plan explain
DRIFT = 1.0  # radians by which the fastest taste turns during the whole period
QUALITY = 1.5  # standard deviation of an item's general appeal
MAINSTREAM = 0.35  # how much users differ in following the crowd, relative to the average
HEAT_SENSITIVITY = 0.45  # how much users differ in following new and trending items, log standard deviation
DAYPART = 1.0  # weight of preferences by time of day and weekend
DEVICE = 0.8  # weight of preferences by device
SHORT_ON_PHONE = 0.5  # phones and tablets favor short items, televisions long ones
LANGUAGE = 1.0  # weight of the language of the user's country
MATURITY = 0.35  # older users lean to more mature items

MOOD = 1.6  # weight of the latest plays
MOOD_MEMORY = 0.6  # share of a play's weight in the mood that remains after each further play
SEQUEL_WITHOUT_START = 1.5  # cost of a part whose previous part the user has not seen
SEQUEL_NEXT = (4.2, 3.0, 2.3, 1.7, 1.3, 1.0, 0.7, 0.5)  # bonus of the next part, by plays since the previous one

NEW_SHARE = 0.12  # items released within 180 days of the period
NEW_BOOST = 1.5  # mean bonus of an item on its release day
NEW_DAYS = 10.0  # days after which the bonus is down to 1/e
AGE_COST = 0.4  # cost of each e-fold of age
AGE_DAYS = 120.0  # age at which that cost begins
SWING = 0.8  # how far an item's appeal rises and falls over the months
SWING_DAYS = (60.0, 240.0)  # length of one such wave
BURSTS = 1.5  # items that start to trend per day and 2,000 items
BURST_BOOST = 2.1  # mean bonus at the start of a burst
BURST_DAYS = (2.0, 7.0)  # days after which a burst is down to 1/e

LATE_SHARE = 0.03  # share of plays on phone and tablet that the platform learns of late


@dataclass(frozen=True)
class Clock:
    """First and last moment of the period, microseconds since 1970. Quarters count from `origin`, midnight of the first day."""

    start: int
    end: int

    @classmethod
    def from_settings(cls, settings: Simulate) -> Clock:
        """A start without a time zone is UTC."""
        start = from_datetime(settings.start) // MICROSECONDS * MICROSECONDS
        return cls(start, start + settings.days * DAY)

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
    """1 on Saturday and Sunday, otherwise 0."""
    return ((times // DAY - MONDAY) % 7 >= 5).astype(np.int64)
