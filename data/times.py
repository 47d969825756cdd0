"""Times as ISO 8601 text and as integer microseconds since 1970, one at a time.

Loads only the standard library, so that the serving worker and the edge can use it; `data.time_columns`
reads columns of times.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from data.columns import MICROSECONDS

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_UTC = EPOCH.replace(tzinfo=None)


def from_datetime(moment: datetime) -> int:
    """Convert to microseconds since 1970. Without a time zone it is UTC. Raises ValueError near years 1 and 9999."""
    try:
        elapsed = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC) - EPOCH
    except OverflowError as error:
        raise ValueError(str(error)) from None
    return (elapsed.days * 86_400 + elapsed.seconds) * MICROSECONDS + elapsed.microseconds


def from_iso(text: str) -> int:
    """Parse ISO 8601 text into microseconds since 1970; UTC without an offset. Raises ValueError for other text.

    Requests may hold every form that Python's `datetime.fromisoformat` reads: padded dates with or without a time, an
    offset or Z. `data.time_columns` reads all of these alike, except for week dates and dates of eight digits alone.
    """
    return from_datetime(datetime.fromisoformat(text))


@lru_cache(64)  # the responses of a batch repeat a few times
def to_iso(time_us: int) -> str:
    """Format microseconds since 1970 as ISO 8601 in UTC, such as 1998-03-27T22:53:10Z."""
    return (EPOCH_UTC + timedelta(microseconds=int(time_us))).isoformat() + "Z"


def now_us() -> int:
    """The current time in microseconds since 1970."""
    return time.time_ns() // 1000


def now_iso() -> str:
    """The current time as ISO 8601 in UTC, in whole seconds."""
    return to_iso(now_us() // MICROSECONDS * MICROSECONDS)
