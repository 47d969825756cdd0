"""Keep-alive connections to one server, each answer within a hard limit of time."""

from __future__ import annotations

import asyncio

from serving.edge.connection import Connection, Reply
from serving.edge.errors import Crowded, TooSlow, Unreachable

WAITING_PER_CONNECTION = 4  # more than these would wait past their deadlines anyway


class Pool:
    """Connections are opened when needed, kept, and never shared by two requests at a time.

    Args:
        host, port: of the server.
        most: connections at a time; further requests wait for one.
    """

    def __init__(self, host: str, port: int, most: int) -> None:
        self._host, self._port, self._most = host, port, most
        self._free = asyncio.Semaphore(most)
        self._idle: list[Connection] = []
        self._waiting = 0

    async def ask(self, request: bytes, seconds: float) -> Reply:
        """Send the request's bytes; its answer.

        Raises:
            TooSlow: no answer within `seconds`; the connection is gone, so that a late answer meets nobody.
            Unreachable, Garbled: as they say.
            Crowded: too many wait already.
        """
        if self._waiting >= self._most * WAITING_PER_CONNECTION:
            raise Crowded(f"TorchServe was not asked: {self._waiting} requests wait for it already")
        self._waiting += 1
        try:
            async with asyncio.timeout(seconds), self._free:
                return await self._ask(request)
        except TimeoutError:
            raise TooSlow(f"TorchServe did not answer within {seconds * 1000:.0f} ms") from None
        finally:
            self._waiting -= 1

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    async def _ask(self, request: bytes) -> Reply:
        while self._idle:
            connection = self._idle.pop()
            if not connection.usable:
                continue
            try:
                return await self._use(connection, request)
            except Unreachable:
                # A kept connection may have been closed while it lay idle. Asking again is safe: asking changes nothing.
                if connection.heard:
                    raise
        return await self._use(await self._open(), request)

    async def _use(self, connection: Connection, request: bytes) -> Reply:
        try:
            reply = await connection.ask(request)
        except BaseException:  # a cancelled wait too
            connection.close()
            raise
        if connection.usable:
            self._idle.append(connection)
        return reply

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(Connection, self._host, self._port)
        except OSError as error:
            raise Unreachable(f"TorchServe cannot be reached ({error.strerror or type(error).__name__})") from None
        return connection
