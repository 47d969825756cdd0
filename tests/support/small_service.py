"""A small HTTP service with bounded connections, in a real uvicorn on a real port, in a thread of the test's process."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import uvicorn
from running import wait_until
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from web import connections
from web.connections import ConnectionLimiter
from web.errors import ApiError
from web.header_check import HeaderCheck
from web.request_body import read_body
from web.uvicorn_options import UVICORN_OPTIONS

LARGE = bytes(1_500_000)  # more than the buffers of a connection hold


class SmallService:
    """Runs until `close`: GET /short and /large, POST /length (of the body), /refused (which does not read it) and /slow."""

    def __init__(
        self,
        max_connections: int = 100,
        head_seconds: float = 10,
        body_seconds: float = 10,
        idle_seconds: float = 75,
        max_body_bytes: int = 100_000,
    ) -> None:
        self.closed: Counter[str] = Counter()  # connections, by the reason
        self.delay = 0.0  # of /slow
        self.begun = 0  # requests of /slow
        self._limits = max_connections, head_seconds, body_seconds, idle_seconds, max_body_bytes
        app = Starlette(
            routes=[
                Route("/short", lambda request: PlainTextResponse("short")),
                Route("/large", lambda request: Response(LARGE)),
                Route("/length", self._length, methods=["POST"]),
                Route("/refused", lambda request: Response(status_code=401), methods=["POST"]),
                Route("/slow", self._slow, methods=["POST"]),
            ],
            lifespan=self._lifespan,
        )
        app.add_middleware(HeaderCheck, unrepeatable={b"authorization"}, refuse=_refuse)
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, **UVICORN_OPTIONS))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        wait_until(lambda: self._server.started)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=30)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[dict[str, Any]]:
        self.limiter = ConnectionLimiter(*self._limits, lambda reason: self.closed.update([reason]))
        sweeps = asyncio.create_task(self.limiter.run())
        yield {connections.STATE: self.limiter}
        sweeps.cancel()
        with suppress(asyncio.CancelledError):
            await sweeps

    async def _length(self, request: Request) -> Response:
        _, _, body_seconds, _, max_body_bytes = self._limits
        body = await read_body(request, max_body_bytes, body_seconds, lambda amount: None)
        return PlainTextResponse(str(len(body)))

    async def _slow(self, request: Request) -> Response:
        await request.body()
        self.begun += 1
        await asyncio.sleep(self.delay)
        return PlainTextResponse("slow")

    def close(self) -> None:
        self.http.close()
        self._server.should_exit = True
        self._thread.join(15)
        assert not self._thread.is_alive()


def _refuse(request: Request, error: ApiError) -> Response:
    return PlainTextResponse(f"{error.field} {error.detail}", error.status_code, error.headers)


StartSmall = Callable[..., SmallService]  # the fixture `start`: limits by name
