"""The edge's log: one JSON object a line, with nothing in it of whom or what a request was about."""

from __future__ import annotations

import logging
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

CONFIG: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"lines": {"()": "serving.edge.log_lines.JsonLines"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "lines"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {"serving": {"level": "INFO"}, "uvicorn": {"level": "INFO"}},
}


class JsonLines(logging.Formatter):
    """time, level, logger, event; request_id where the line is of one request; error and where, of an exception."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        if (request_id := getattr(record, "request_id", None)) is not None:
            line["request_id"] = request_id
        if record.exc_info and record.exc_info[1] is not None:
            line |= _about(record.exc_info[1])
        return orjson.dumps(line).decode()


def _about(error: BaseException) -> dict[str, Any]:
    """An exception's type and way. Not its text, which may quote what a client sent: a KeyError does."""
    frames = traceback.extract_tb(error.__traceback__)
    where = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    return {"error": type(error).__qualname__, "where": where}
