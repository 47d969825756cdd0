"""How a process of a service ends: it drains after SIGTERM, and it never outlives its parent.

While it drains, /readyz answers 503, so that load balancers stop sending requests; those that come are answered still.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.uvicorn_options import GRACEFUL_SECONDS


def drain_on_sigterm(begin: Callable[[], None], seconds: float) -> None:
    """On SIGTERM call `begin`, and the HTTP server's own handler some seconds later. SIGINT still ends it at once.

    Called in the event loop, once the HTTP server has set its handler. No effect outside a process's main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    close = signal.getsignal(signal.SIGTERM)
    if not callable(close):
        return
    loop = asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []

    def drain() -> None:
        if not timers:  # a service manager may signal every process of a group, and the parent its children again
            begin()
            timers.append(loop.call_later(seconds, close, signal.SIGTERM, None))

    loop.add_signal_handler(signal.SIGTERM, drain)


def end_with_parent() -> None:
    """End this process when the one that started it does, if `multiprocessing` did: it would keep the port."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(GRACEFUL_SECONDS + 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent").start()


class CloseWhileDraining:
    """Middleware that closes each connection after its answer, so that the next request goes elsewhere."""

    def __init__(self, app: ASGIApp, is_draining: Callable[[], bool]) -> None:
        self._app, self._is_draining = app, is_draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._is_draining():
            await self._app(scope, receive, _closing(send))
        else:
            await self._app(scope, receive, send)


def _closing(send: Send) -> Send:
    async def send_closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["Connection"] = "close"
        await send(message)

    return send_closing
