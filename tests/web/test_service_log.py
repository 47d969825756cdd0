"""A service logs JSON lines, and hostile requests cannot fill the disk through its log."""

from __future__ import annotations

import json
import logging
import logging.config
import sys
from collections.abc import Iterator

import pytest

from web.service_log import LINES, SECONDS, RepeatLimit, log_config

LOGGING = log_config("serving")


class ManualLimit:
    """A RepeatLimit whose clock the test moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self._limit = RepeatLimit(lambda: self.now)

    def passes(self, text: str) -> str | None:
        """The message that is logged, if it is."""
        record = logging.LogRecord("uvicorn.error", logging.WARNING, "", 0, text, ("a",), None)
        return record.getMessage() if self._limit.filter(record) else None


def test_a_message_that_repeats_is_logged_some_times_and_then_counted() -> None:
    limit = ManualLimit()
    assert [limit.passes("from %s") for _ in range(LINES + 5)] == ["from a"] * LINES + [None] * 5
    assert limit.passes("another %s") == "another a"
    limit.now = SECONDS
    assert limit.passes("from %s") == "from a (5 like this were not logged)"
    assert limit.passes("from %s") == "from a"


@pytest.fixture
def service_logging() -> Iterator[None]:
    """Log as a service does."""
    root, loggers = logging.getLogger(), [logging.getLogger(name) for name in LOGGING["loggers"]]
    before = [(logger, logger.level, logger.handlers[:]) for logger in (root, *loggers)]
    logging.config.dictConfig(LOGGING)
    yield
    for logger, level, handlers in before:
        logger.level, logger.handlers = level, handlers


def test_the_log_of_a_service_is_bounded(service_logging: None) -> None:
    filters = [each for handler in logging.getLogger().handlers for each in handler.filters]
    assert any(isinstance(each, RepeatLimit) for each in filters)


def test_the_logging_configuration_writes_json_lines_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        logging.config.dictConfig(LOGGING)
        root.handlers[0].setStream(sys.stderr)
        logging.getLogger("serving.edge.app").info("logged")
        logging.getLogger("httpx").info("not logged")
    finally:
        root.handlers[:], root.level = before
    (line,) = capsys.readouterr().err.splitlines()
    assert {name: json.loads(line)[name] for name in ("level", "logger", "event")} == {
        "level": "info",
        "logger": "serving.edge.app",
        "event": "logged",
    }
