"""A bound for the edge's own log: requests that are no HTTP write a line each, and must not fill the disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

LINES, SECONDS = 20, 60.0


class RepeatLimit(logging.Filter):
    """Lets `LINES` records of one message per `SECONDS` pass; the next one that passes says how many did not."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}  # logger and message -> (since when, how many)

    def filter(self, record: logging.LogRecord) -> bool:
        # The text before its arguments are put in: there are only so many of these.
        key, now = (record.name, str(record.msg)), self._clock()
        since, count = self._seen.get(key, (now, 0))
        if now - since >= SECONDS:
            if count > LINES:
                record.msg = f"{record.msg} ({count - LINES} like this were not logged)"
            since, count = now, 0
        self._seen[key] = since, count + 1
        return count < LINES
