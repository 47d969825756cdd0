"""A process drains after SIGTERM, and each connection closes after its answer while it does."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from web.shutdown import CloseWhileDraining, drain_on_sigterm


@pytest.fixture
def ended() -> Iterator[list[int]]:
    """The signals that reach the HTTP server's own handler of SIGTERM."""
    signals: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
    yield signals
    signal.signal(signal.SIGTERM, before)


def test_a_process_begins_to_drain_at_once_and_ends_once_some_time_later(ended: list[int]) -> None:
    begun: list[bool] = []

    async def serve() -> None:
        drain_on_sigterm(lambda: begun.append(True), 0.2)
        for _ in range(2):  # a service manager may repeat it
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(0.01)
        assert (begun, ended) == ([True], [])
        await asyncio.sleep(0.5)

    asyncio.run(serve())
    assert (begun, ended) == ([True], [signal.SIGTERM])


def test_a_thread_takes_no_signal(ended: list[int]) -> None:
    async def serve() -> None:
        drain_on_sigterm(lambda: pytest.fail("it drains"), 0)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    thread.join()
    os.kill(os.getpid(), signal.SIGTERM)
    assert ended == [signal.SIGTERM]


def test_a_connection_closes_after_its_answer_only_while_draining() -> None:
    draining = [False]
    app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("here"))])
    app.add_middleware(CloseWhileDraining, is_draining=lambda: draining[0])

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            return await client.get("/")

    assert "connection" not in asyncio.run(ask()).headers
    draining[0] = True
    got = asyncio.run(ask())
    assert (got.text, got.headers["connection"]) == ("here", "close")
