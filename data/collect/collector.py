"""The verdict on each message of a batch: read it, store it, and return what became of it.

One bad message costs its batch nothing. What is accepted or rejected is stored before the verdicts are returned.
"""

from __future__ import annotations

import asyncio
import secrets
import sqlite3
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from config.redact import HIDDEN, KEY
from data.collect.event_log import EventLog, LogFull, LogUnavailable, NewMessage, Outcome, Receipt
from data.collect.messages import (
    MAX_EVENT_BYTES,
    MAX_MESSAGE_ID,
    Arrival,
    Reading,
    Reason,
    Rejection,
    find_message_id,
    fingerprint,
    read_message,
    to_events,
)
from data.collect.rejected_store import Outcome as Replayed
from data.collect.rejected_store import RejectedEvent, RejectedStore

ENCODER = msgspec.json.Encoder()


class Status(StrEnum):
    """What became of a message. A sender repeats `limited` and `retry`, and nothing else."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"  # the same message was accepted before
    REJECTED = "rejected"  # it can never be accepted as it is
    LIMITED = "limited"  # too much at once
    RETRY = "retry"  # it could not be stored


class Verdict(NamedTuple):
    """What became of a message, why, and which purposes its events may serve."""

    message_id: str | None  # None: it cannot be read
    status: Status
    reason: str | None = None
    field: str | None = None
    message: str | None = None
    purposes: tuple[str, ...] | None = None
    position: str | None = None  # in the log

    def public(self) -> dict[str, Any]:
        """The fields of a response that are set, without the id."""
        return {name: value for name, value in zip(self._fields[1:], self[1:], strict=True) if value is not None}


class _Read(NamedTuple):
    """A message that was read: what to store of it, or why it is rejected."""

    raw: bytes
    message_id: str | None
    new: NewMessage | None = None
    purposes: tuple[str, ...] = ()
    rejection: Rejection | None = None


class Collector:
    """Judges and stores messages."""

    def __init__(self, event_log: EventLog, rejected: RejectedStore) -> None:
        self._log, self._rejected = event_log, rejected

    async def collect(self, raws: Sequence[bytes], source: str, arrival: Arrival, reading: Reading) -> list[Verdict]:
        """The verdict on each message, in order, once all that is accepted or rejected is stored.

        Args:
            source: the name of the write key's source.
        """
        read = [_read(raw, arrival, reading) for raw in raws]
        verdicts = await self._store(read, arrival.known_us, source)
        rejected = [
            _to_keep(one.raw, verdict, source, arrival, reading)
            for one, verdict in zip(read, verdicts, strict=True)
            if verdict.status is Status.REJECTED
        ]
        if not rejected:
            return verdicts
        try:
            await asyncio.to_thread(self._rejected.add, rejected)
        except (OSError, sqlite3.Error) as error:
            text = f"the rejected events cannot be stored: {error}"
            return [
                Verdict(verdict.message_id, Status.RETRY, message=text)
                if verdict.status is Status.REJECTED
                else verdict
                for verdict in verdicts
            ]
        return verdicts

    async def replay(
        self, events: Sequence[RejectedEvent], reading_for: Callable[[tuple[str, ...]], Reading], now_us: int
    ) -> int:
        """Read rejected events again as if they came when they came, and append what is accepted as known from now on.

        What cannot be stored now stays requested. Repeated after a kill, it changes nothing: an event keeps its message id.
        Returns the number of events that were accepted, or rejected again.

        Args:
            reading_for: the current rules, with these default purposes.
        """
        outcomes = []
        for source in {event.source for event in events}:
            of_source = [event for event in events if event.source == source]
            read = []
            for event in of_source:
                arrival = Arrival(event.known_us, event.sent_us, event.kind, event.context, event.message_id)
                purposes = tuple(filter(None, event.purposes.split(",")))
                read.append(_read(event.body, arrival, reading_for(purposes)))
            for event, verdict in zip(of_source, await self._store(read, now_us, source), strict=True):
                if verdict.status in (Status.ACCEPTED, Status.DUPLICATE):
                    outcomes.append(Replayed(event.number))
                elif verdict.status is Status.REJECTED:
                    outcomes.append(
                        Replayed(event.number, (verdict.reason or "", verdict.field, verdict.message or ""))
                    )
        await asyncio.to_thread(self._rejected.settle, outcomes, now_us)
        return len(outcomes)

    async def _store(self, read: Sequence[_Read], known_us: int, source: str) -> list[Verdict]:
        new = [one.new for one in read if one.new is not None]
        receipts: list[Receipt] = []
        failure: tuple[Status, str] | None = None
        try:
            if new:
                receipts = await asyncio.wrap_future(self._log.append(known_us, source, new))
        except LogFull as error:
            failure = Status.LIMITED, str(error)
        except LogUnavailable as error:
            failure = Status.RETRY, str(error)
        verdicts, stored = [], iter(receipts)
        for one in read:
            if one.new is None:
                verdicts.append(_rejected(one))
            elif failure is not None:
                verdicts.append(Verdict(one.message_id, failure[0], message=failure[1]))
            else:
                verdicts.append(_stored(one, next(stored)))
        return verdicts


def validate(raws: Sequence[bytes], arrival: Arrival, reading: Reading) -> list[Verdict]:
    """The verdicts that `Collector.collect` would return for new messages; stores nothing."""
    read = [_read(raw, arrival, reading) for raw in raws]
    return [
        _rejected(one) if one.new is None else Verdict(one.message_id, Status.ACCEPTED, purposes=one.purposes)
        for one in read
    ]


def _read(raw: bytes, arrival: Arrival, reading: Reading) -> _Read:
    message_id = None
    try:
        message = read_message(raw, arrival)
        message_id = message.message_id
        events = to_events(message, arrival, reading)
        content = ENCODER.encode(events)
    except Rejection as rejection:
        return _Read(raw, message_id or find_message_id(raw), rejection=rejection)
    first = events[0]
    person = first.user_id or first.anonymous_id or str(getattr(first, "item_id", ""))  # an item is no person's
    new = NewMessage(message.message_id or "", fingerprint(message), person, content)
    return _Read(raw, message_id, new, first.purposes)


def _to_keep(raw: bytes, verdict: Verdict, source: str, arrival: Arrival, reading: Reading) -> RejectedEvent:
    """What is kept of a rejected message. One without an id gets one here, so that it is stored once if replayed twice."""
    message_id = verdict.message_id
    if not message_id or len(message_id) > MAX_MESSAGE_ID:
        message_id = secrets.token_hex(16)
    body = _without_key(raw)[:MAX_EVENT_BYTES]
    how = arrival.sent_us, arrival.kind, arrival.context, ",".join(reading.default_purposes)
    return RejectedEvent(
        0,
        arrival.known_us,
        source,
        verdict.reason or "",
        verdict.field,
        verdict.message or "",
        message_id,
        len(raw),
        body,
        *how,
    )


def _without_key(raw: bytes) -> bytes:
    """A message without its write key."""
    try:
        fields = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError, UnicodeError):  # it cannot be read
        return KEY.sub(HIDDEN, raw.decode(errors="surrogateescape")).encode(errors="surrogateescape")
    return raw if fields.pop("writeKey", None) is None else ENCODER.encode(fields)


def _rejected(read: _Read) -> Verdict:
    rejection = read.rejection
    assert rejection is not None
    return Verdict(read.message_id, Status.REJECTED, rejection.reason, rejection.field, rejection.message)


def _stored(read: _Read, receipt: Receipt) -> Verdict:
    position = str(receipt.position)
    match receipt.outcome:
        case Outcome.STORED:
            return Verdict(read.message_id, Status.ACCEPTED, purposes=read.purposes, position=position)
        case Outcome.DUPLICATE:
            return Verdict(read.message_id, Status.DUPLICATE, purposes=read.purposes, position=position)
        case Outcome.CONFLICT:
            text = f"the log holds another event with this id, at {position}; give each event an id of its own"
            return Verdict(read.message_id, Status.REJECTED, Reason.CONFLICT, "messageId", text)
