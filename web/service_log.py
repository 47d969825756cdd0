"""A service's own log: JSON lines on stderr. Requests that are no HTTP write a line each, and must not fill the disk."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from config.redact import redact

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


class JsonLines(logging.Formatter):
    """One JSON object per log record, with nothing of the user or the content of a request.

    Fields: time, level, logger, event; request_id where the record belongs to one request; error and where for an
    exception.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": redact(record.getMessage()),
        }
        if (request_id := getattr(record, "request_id", None)) is not None:
            line["request_id"] = request_id
        if record.exc_info and (error := record.exc_info[1]) is not None:  # not its text: it may quote a client
            frames = traceback.extract_tb(error.__traceback__)
            line["error"] = type(error).__qualname__
            line["where"] = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
        return orjson.dumps(line).decode()


def log_config(package: str) -> dict[str, Any]:
    """The logging configuration of a service, as `logging.config.dictConfig` takes it.

    Args:
        package: whose loggers write from the level INFO on; others do from WARNING on.
    """
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": {"()": JsonLines}},
        "filters": {"repeats": {"()": RepeatLimit}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "lines", "filters": ["repeats"]}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {package: {"level": "INFO"}, "uvicorn": {"level": "INFO"}},
    }
