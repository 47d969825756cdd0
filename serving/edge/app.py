"""The edge as an ASGI application: paths, methods, and what each may answer."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import orjson

from serving.edge import openapi, page, settings
from serving.edge.consent import Users
from serving.edge.endpoint import METHODS, recommendations
from serving.edge.errors import Refusal
from serving.edge.incoming import Gone, Receive
from serving.edge.respond import HTML, Send, error, json, raw
from serving.edge.service import Service
from serving.edge.settings import EdgeSettings
from serving.edge.stored import Stored

log = logging.getLogger(__name__)

PAGE_POLICY = ((b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),)


def create() -> App:
    """What uvicorn calls in each process.

    Raises:
        SettingsError, KeyringError, SecretError: the environment, the keys or the secret cannot be.
    """
    chosen = settings.load()
    return App(chosen, Stored.of(chosen.dataset))


class App:
    """See `serving.edge.service.Service` for the arguments."""

    def __init__(self, settings: EdgeSettings, users: Users | None = None) -> None:
        self.service = Service(settings, users)
        description = openapi.describe(settings)
        self._pages = {
            "/openapi.json": (orjson.dumps(description), b"application/json"),
            "/docs": (page.render(description).encode(), HTML),
        }

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                await self._route(scope, receive, send)
            except Gone:
                return
        elif scope["type"] == "lifespan":
            await self._live(receive, send)

    async def _route(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if path == "/v1/recommendations":
            if method in METHODS:
                await recommendations(self.service, scope, receive, send)
            else:
                await self._wrong_method(send, METHODS)
        elif method != "GET" and path in (*self._pages, "/healthz", "/readyz"):
            await self._wrong_method(send, ("GET",))
        elif path == "/healthz":
            await json(send, 200, b'{"status":"alive"}')
        elif path == "/readyz":
            able, parts = self.service.ready()
            word = "ready" if able else "not ready"
            await json(send, 200 if able else 503, orjson.dumps({"status": word, **parts}))
        elif path in self._pages:
            body, kind = self._pages[path]
            await raw(send, 200, body, kind, PAGE_POLICY)
        else:
            await self._refuse(send, Refusal(404, "path", "nothing is here; see /docs"))

    def refused(self, status: int) -> None:
        """Count a refusal, also one of what never became a request."""
        self.service.metrics.refusals.labels(status).inc()

    async def _wrong_method(self, send: Send, allowed: tuple[str, ...]) -> None:
        told = f"expected {' or '.join(allowed)}"
        await self._refuse(send, Refusal(405, "method", told, ((b"allow", ", ".join(allowed).encode()),)))

    async def _refuse(self, send: Send, refusal: Refusal) -> None:
        self.refused(refusal.status)
        await error(send, refusal)

    async def _live(self, receive: Receive, send: Send) -> None:
        """Start and stop with the process."""
        await receive()
        try:
            await self.service.start()
        except Exception as fault:
            log.exception("the edge does not start")
            await send({"type": "lifespan.startup.failed", "message": str(fault)})
            return
        await send({"type": "lifespan.startup.complete"})
        try:
            await receive()
        except asyncio.CancelledError:
            await self.service.stop()
            raise
        await self.service.stop()
        await send({"type": "lifespan.shutdown.complete"})
