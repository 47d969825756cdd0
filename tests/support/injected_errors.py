"""Errors in front of an application, as a load balancer or a server under load answers them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send


class InjectedError(NamedTuple):
    """The answer to one request."""

    status: int
    headers: Mapping[str, str] = {}


TWO_FAILURES_AND_A_LIMIT = (InjectedError(500), InjectedError(500), InjectedError(429, {"Retry-After": "1"}))
CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Retry-After",
}  # a browser's script sees it


class InjectedErrors:
    """Answers the first POST requests with errors, one each, and hands the others to the application."""

    def __init__(self, app: ASGIApp, errors: tuple[InjectedError, ...] = TWO_FAILURES_AND_A_LIMIT) -> None:
        self._app, self.left = app, deque(errors)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not self.left:
            await self._app(scope, receive, send)
            return
        error = self.left.popleft()
        while (await receive()).get("more_body"):
            pass
        await PlainTextResponse("injected", error.status, {**CORS, **error.headers})(scope, receive, send)
