"""Bounds of one process's connections: how many, how long each may be silent, and how much it may send unasked.

uvicorn limits none of these before a request's head is whole. It takes a protocol class by its setting `http`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import resource
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = logging.getLogger(__name__)

STATE = "connections"  # where the application's lifespan state holds the process's ConnectionLimiter
SWEEP_SECONDS = 0.5
YOUNG_SECONDS = 1.0  # a connection without a request yet is not yet suspicious
STALLED_SECONDS = 10.0  # a client that reads nothing for this long is gone
RESPONSE_SECONDS = 30.0  # within which a client must read a response, from its first pause on
GRACE_SECONDS = 2.0  # the application answers a slow body itself, with a 408
MAX_HEAD_BYTES = 65_536  # more than the application accepts, since it answers with a 431
MAX_UNANSWERED = 16  # requests sent ahead on one connection
OTHER_FILES, BACKLOG = 256, 2048  # open files besides connections; uvicorn's queue of new connections
# Why a connection was closed; these label a metric.
SHED, REFUSED, IDLE = "shed", "refused", "idle"  # for a newer one; all others are busy; too long without a request
SLOW_REQUEST, LONG_REQUEST, SENT_AHEAD, SLOW_READER = "slow_request", "long_request", "sent_ahead", "slow_reader"
_BODY = json.dumps({"code": 503, "field": None, "message": "every connection has a request in progress; try again"})
BUSY = f"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {len(_BODY)}\r\n"
BUSY += f"retry-after: 1\r\nconnection: close\r\n\r\n{_BODY}"


class ConnectionLimiter:
    """The connections of one process, in order of their last progress.

    Args:
        max_connections: a new one beyond it takes the place of the slowest reader, or of the one that is idle for longest.
        head_seconds, body_seconds, idle_seconds: how long a head may take, a body, and the time between requests.
        max_body_bytes: of one request. A connection may send twice as much, because chunks state their sizes.
        count: called with the reason of each connection that is closed.
    """

    def __init__(
        self,
        max_connections: int,
        head_seconds: float,
        body_seconds: float,
        idle_seconds: float,
        max_body_bytes: int,
        count: Callable[[str], None],
    ) -> None:
        self.max_connections = max_connections
        self.head_seconds, self.body_seconds, self.idle_seconds = head_seconds, body_seconds, idle_seconds
        self.max_request_bytes = MAX_HEAD_BYTES + 2 * max_body_bytes
        self._count = count
        self._new: dict[BoundedConnection, None] = {}  # never answered
        self._idle: dict[BoundedConnection, None] = {}  # answered before, and no whole request is there
        self._busy: set[BoundedConnection] = set()
        self._slow: dict[BoundedConnection, None] = {}  # of all these: the client does not read its response at once

    def __len__(self) -> int:
        return len(self._new) + len(self._idle) + len(self._busy)

    def admit(self, connection: BoundedConnection) -> bool:
        """Take a new connection, and close another one to make room; False where all wait for their answers."""
        if len(self) >= self.max_connections:
            oldest = self._least_useful(connection.since)
            if oldest is None:
                self._count(REFUSED)
                return False
            self.close(oldest, SHED)
        self._new[connection] = None
        return True

    def progressed(self, connection: BoundedConnection) -> None:
        """A connection's head or request is whole, or was answered: it goes to the end of its queue."""
        self._leave_queue(connection)
        if connection.is_lost:  # answers to requests that were sent ahead may still come
            return
        if connection.is_busy:
            self._busy.add(connection)
        elif connection.was_answered:
            self._idle[connection] = None
        else:
            self._new[connection] = None

    def slowed(self, connection: BoundedConnection) -> None:
        """The client does not read a response as fast as it comes."""
        self._slow[connection] = None  # one that is there keeps its place

    def caught_up(self, connection: BoundedConnection) -> None:
        self._slow.pop(connection, None)

    def discard(self, connection: BoundedConnection) -> None:
        self._leave_queue(connection)
        self.caught_up(connection)

    def _leave_queue(self, connection: BoundedConnection) -> None:
        self._new.pop(connection, None)
        self._idle.pop(connection, None)
        self._busy.discard(connection)

    def close(self, connection: BoundedConnection, reason: str) -> None:
        """Close a connection at once, whatever it has still to send or to read."""
        self.discard(connection)
        self._count(reason)
        connection.transport.abort()

    async def run(self) -> None:
        """Close what is overdue, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            self.sweep(asyncio.get_running_loop().time())

    def sweep(self, now: float) -> None:
        for connection in [*self._new, *self._idle, *self._busy]:
            if now - connection.stalled_since > STALLED_SECONDS or now - connection.slow_since > RESPONSE_SECONDS:
                self.close(connection, SLOW_READER)
            elif not connection.is_busy and now > connection.deadline:
                self.close(connection, SLOW_REQUEST if connection.is_receiving else IDLE)

    def _least_useful(self, now: float) -> BoundedConnection | None:
        """The slowest reader if it is slow for a while, or else one that is idle, or else a slow reader."""
        slow, idle = next(iter(self._slow), None), self._longest_idle(now)
        if slow is None or idle is None:
            return slow or idle
        return slow if now - slow.slow_since > YOUNG_SECONDS else idle

    def _longest_idle(self, now: float) -> BoundedConnection | None:
        """One that never had a request goes first, unless it has just come: its request may be on the way.

        Where most have just come, somebody opens many, and they make room for each other.
        """
        new, idle = next(iter(self._new), None), next(iter(self._idle), None)
        if new is None or idle is None:
            return new or idle
        is_young = now - new.since < YOUNG_SECONDS and len(self._new) <= self.max_connections / 2
        return idle if is_young and idle.since < new.since else new


class BoundedConnection(HttpToolsProtocol):
    """A connection that tells its process's limiter how far it is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limiter: ConnectionLimiter = self.app_state[STATE]
        self._requests = self._responses = 0  # whole ones
        self._in_body = False
        self._received = 0  # bytes since the last whole head or body
        self.since = self.loop.time()  # of the last progress
        self.deadline = self.since + self._limiter.head_seconds  # while it is not busy
        self.stalled_since = math.inf  # since when the client reads nothing
        self.slow_since = math.inf  # since when it did not read its responses as fast as they came
        self.is_lost = False

    @property
    def is_busy(self) -> bool:
        """Whether a whole request waits for its answer."""
        return self._requests > self._responses

    @property
    def was_answered(self) -> bool:
        return self._responses > 0

    @property
    def is_receiving(self) -> bool:
        """Whether a part of a request is there."""
        return self._in_body or self._received > 0

    # What the transport calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        if not self._limiter.admit(self):
            transport.write(BUSY.encode())
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._limiter.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.is_receiving:
            self.deadline = min(self.deadline, self.loop.time() + self._limiter.head_seconds)
        self._received += len(data)
        super().data_received(data)
        if self._received > (self._limiter.max_request_bytes if self._in_body else MAX_HEAD_BYTES):
            self._limiter.close(self, LONG_REQUEST)
        elif self._requests - self._responses > MAX_UNANSWERED:
            self._limiter.close(self, SENT_AHEAD)

    def pause_writing(self) -> None:
        self.stalled_since = self.loop.time()
        self.slow_since = min(self.slow_since, self.stalled_since)
        self._limiter.slowed(self)
        super().pause_writing()

    def resume_writing(self) -> None:
        self.stalled_since = math.inf
        if not self.is_busy:
            self._catch_up()
        super().resume_writing()

    # What the parser calls

    def on_headers_complete(self) -> None:
        self._in_body, self._received = True, 0
        self._progress(self._limiter.body_seconds + GRACE_SECONDS)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body, self._received = False, 0
        self._requests += 1
        self._progress(self._limiter.idle_seconds)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._responses += 1
        if self.stalled_since == math.inf:
            self._catch_up()
        if not self._in_body:  # else its answer did not wait for the body
            self._progress(self._limiter.head_seconds if self.is_receiving else self._limiter.idle_seconds)
        super().on_response_complete()

    def _catch_up(self) -> None:
        self.slow_since = math.inf
        self._limiter.caught_up(self)

    def _progress(self, seconds: float) -> None:
        """Until the next one there may be so many seconds."""
        self.since = self.loop.time()
        self.deadline = self.since + seconds
        self._limiter.progressed(self)


def allow_open_files(max_connections: int) -> int:
    """Raise this process's limit of open files to what it needs; how many connections the operating system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = math.inf if hard == resource.RLIM_INFINITY else hard
    needed = max_connections + BACKLOG + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(min(needed, most)), hard))
    allowed = int(min(max_connections, max(1, most - OTHER_FILES)))
    if allowed < max_connections:
        log.warning("%d connections at a time, not %d: the limit of open files is %d", allowed, max_connections, hard)
    return allowed
