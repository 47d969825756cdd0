"""Moments as text and as microseconds since 1970. Loads nothing: the serving worker uses it too."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

from data.columns import MICROSECONDS

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_UTC = EPOCH.replace(tzinfo=None)


def from_iso(text: str) -> int:
    """An ISO 8601 text as microseconds since 1970; without an offset it is UTC.

    Raises:
        ValueError: it is none, or a moment that UTC cannot hold and `to_iso` so could not give back.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        since = moment.astimezone(UTC) - EPOCH
    except OverflowError as error:
        raise ValueError(str(error)) from None
    return (since.days * 86_400 + since.seconds) * MICROSECONDS + since.microseconds


@lru_cache(64)  # the answers of a batch state the same few
def to_iso(time_us: int) -> str:
    """Microseconds since 1970 as ISO 8601 in UTC."""
    return (EPOCH_UTC + timedelta(microseconds=int(time_us))).isoformat() + "Z"
