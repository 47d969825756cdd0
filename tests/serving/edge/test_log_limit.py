"""Hostile requests cannot fill the disk through the edge's log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from logging.config import dictConfig

import pytest

from serving.edge.log_limit import LINES, SECONDS, RepeatLimit
from serving.edge.request_log import LOGGING


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
def edges_log() -> Iterator[None]:
    """Log as the edge does."""
    root, loggers = logging.getLogger(), [logging.getLogger(name) for name in LOGGING["loggers"]]
    before = [(logger, logger.level, logger.handlers[:]) for logger in (root, *loggers)]
    dictConfig(LOGGING)
    yield
    for logger, level, handlers in before:
        logger.level, logger.handlers = level, handlers


def test_the_edges_log_is_bounded(edges_log: None) -> None:
    filters = [each for handler in logging.getLogger().handlers for each in handler.filters]
    assert any(isinstance(each, RepeatLimit) for each in filters)
