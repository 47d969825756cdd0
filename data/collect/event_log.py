"""The event log: accepted messages in the order in which the platform learned of them, each once.

`sqlite_log` is the embedded log, `kafka_log` the one at scale. Both store a message with all its events or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from enum import StrEnum
from typing import NamedTuple, Protocol

from config.command import UserError


class LogError(UserError):
    """The log cannot be opened or read."""


class LogFull(Exception):
    """Too many batches wait to be stored; the sender has to try again later."""


class LogUnavailable(Exception):
    """The batch could not be stored, as on a full disk. None of it is acknowledged, and it may be sent again."""


class Position(NamedTuple):
    """The place of a message in the log. Positions of one partition grow in the order of the log."""

    partition: int  # the embedded log has partition 0 only
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read `PARTITION:OFFSET`. Raises ValueError for other text."""
        partition, _, offset = text.partition(":")
        return cls(int(partition), int(offset))


class NewMessage(NamedTuple):
    """A message to append."""

    message_id: str
    fingerprint: bytes  # 8 bytes: equal where a sender repeats the message
    person: str  # messages of one person stay in order
    events: bytes  # its events as a JSON array


class LoggedMessage(NamedTuple):
    """A message as the log holds it."""

    position: Position
    known_us: int  # when the platform learned of it
    source: str  # the name of the write key's source
    message_id: str
    events: bytes  # as in `NewMessage`


class Outcome(StrEnum):
    """What became of a message."""

    STORED = "stored"
    DUPLICATE = "duplicate"  # the log holds the same message
    CONFLICT = "conflict"  # the log holds another message with this id


class Receipt(NamedTuple):
    """What became of a message, and the position of the message that the log holds with its id."""

    outcome: Outcome
    position: Position


class EventLog(Protocol):
    """What the collector needs of a log."""

    @property
    def end(self) -> list[Position]:
        """The last position of each partition."""

    def append(self, known_us: int, source: str, messages: Sequence[NewMessage]) -> Future[list[Receipt]]:
        """Store a batch. The future holds a receipt for each message once all of them are safe.

        The future raises LogUnavailable if the batch was not stored.

        Raises:
            LogFull: too many batches wait.
        """

    def close(self) -> None:
        """Store what waits, then close."""


class EventReader(Protocol):
    """What readers of a log need. Reading needs no lock: any process may read while another one writes."""

    def read(self, after: Mapping[int, int] | None = None) -> Iterator[LoggedMessage]:
        """The messages after an offset of each partition, as far as the log goes now; in order within a partition.

        Raises:
            LogError: the log cannot be read.
        """
