"""TorchServe, asked from the event loop: with its token, through a breaker, within what is left of a deadline."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from serving.circuit_breaker import Breaker
from serving.edge.answer import from_worker
from serving.edge.connection import Reply
from serving.edge.errors import Failed, FailedOnIt, NoAnswer, Refusal, Resting, TooSlow
from serving.edge.pool import Pool
from serving.torchserve.client import ServerError, TorchServe, prediction_path, token_refused

log = logging.getLogger(__name__)

LEAST_SECONDS = 0.001  # with less left there is no point in asking
RENEW_SECONDS = 5
ABSENT_SECONDS = 10.0  # after a version was not found, its users get the default one for this long


class Upstream:
    """Asks one model for recommendations.

    Args:
        url: TorchServe's inference address.
        dataset: the model's name.
        token_file: its key_file.json; where it is not there, no token is sent.
        fair_seconds: a server that took longer than this failed; one that was given less did not.
        watch: told (kind, seconds) of every call, for metrics.
    """

    def __init__(
        self,
        url: str,
        management_url: str,
        dataset: str,
        token_file: Path,
        breaker: Breaker,
        connections: int,
        fair_seconds: float = 0.0,
        watch: Callable[[str, float], None] = lambda kind, seconds: None,
    ) -> None:
        parts = urlsplit(url)
        self._url, self._management_url, self._host = url, management_url, parts.netloc
        self._pool = Pool(parts.hostname or "", parts.port or 80, connections)
        self._dataset, self._token_file, self.breaker, self._watch = dataset, token_file, breaker, watch
        self._fair_seconds = fair_seconds
        self._token = _read_token(token_file)
        self._renewal: asyncio.Task | None = None
        self._absent: dict[str, float] = {}  # version -> until when it counts as not loaded

    def available(self, version: str | None) -> str | None:
        """The version to ask: the wanted one, or None (the default) while that is not loaded."""
        return version if version is None or self._absent.get(version, 0) < time.monotonic() else None

    async def ask(self, body: bytes, version: str | None, seconds: float) -> dict[str, Any]:
        """The worker's answer to a request body.

        Raises:
            NoAnswer: there is none within `seconds`; says why.
            Refusal: the worker finds fault with the request.
        """
        if seconds < LEAST_SECONDS:
            raise TooSlow("no time was left to ask TorchServe")
        if not self.breaker.allows():
            raise Resting("TorchServe was not asked, since it kept failing")
        begun = time.perf_counter()
        kind = "answered"
        try:
            fields = await self._ask(body, version, seconds)
            self.breaker.succeeded()
            return fields
        except NoAnswer as error:
            kind = error.kind
            impatient = isinstance(error, TooSlow) and seconds < self._fair_seconds
            if error.counts and not impatient:  # or one client's short deadlines would degrade everybody's answers
                self.breaker.failed()
            raise
        except Refusal:
            kind = "refused"
            self.breaker.succeeded()
            raise
        finally:
            self._watch(kind, time.perf_counter() - begun)

    def close(self) -> None:
        self._pool.close()
        if self._renewal is not None:
            self._renewal.cancel()

    async def _ask(self, body: bytes, version: str | None, seconds: float) -> dict[str, Any]:
        end = time.monotonic() + seconds
        reply = await self._post(body, version, seconds)
        if _refuses_token(reply):
            await self._renew(end - time.monotonic())
            reply = await self._post(body, version, end - time.monotonic())
        if reply.status == 404 and version is not None:
            log.warning("version %s is not loaded; its users get the default one", version)
            self._absent[version] = time.monotonic() + ABSENT_SECONDS
            reply = await self._post(body, None, end - time.monotonic())
        if reply.status == 200:
            return from_worker(reply.body)
        raise _fault(reply)

    async def _post(self, body: bytes, version: str | None, seconds: float) -> Reply:
        authorization = f"Authorization: Bearer {self._token}\r\n" if self._token else ""
        head = (
            f"POST {prediction_path(self._dataset, version)} HTTP/1.1\r\nHost: {self._host}\r\n{authorization}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return await self._pool.ask(head.encode() + body, max(seconds, LEAST_SECONDS))

    async def _renew(self, seconds: float) -> None:
        """Have a token that holds: read the file again, and where that is no other, have one made."""
        fresh = _read_token(self._token_file)
        if fresh is not None and fresh != self._token:
            self._token = fresh
            return
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(asyncio.to_thread(self._new_token))
        await asyncio.wait({self._renewal}, timeout=max(0.0, seconds))  # it goes on for those who come later
        self._token = _read_token(self._token_file)

    def _new_token(self) -> None:
        try:
            with TorchServe(self._url, self._management_url, self._token_file, timeout=RENEW_SECONDS) as client:
                client.ping()  # renews a token that is refused, under the server's own key
        except ServerError as error:
            log.warning("TorchServe's token could not be renewed: %s", error)


def _read_token(path: Path) -> str | None:
    try:
        return json.loads(path.read_text())["inference"]["key"]
    except (OSError, ValueError, KeyError, TypeError):  # no authorization there, or the file is being written
        return None


def _refuses_token(reply: Reply) -> bool:
    if reply.status == 200 or b'"field"' in reply.body:  # a worker's own 400 names a field
        return False
    return token_refused(reply.status, reply.body.decode("utf-8", "replace"))


def _fault(reply: Reply) -> Exception:
    """What an answer other than 200 means to the client."""
    if reply.status == 413:
        return Refusal(413, "body", "the request is longer than TorchServe takes")
    if reply.status == 400:
        try:
            said = json.loads(reply.body)
            return Refusal(400, str(said["field"]), str(said["message"]))
        except (ValueError, KeyError, TypeError):
            pass
    if reply.status == 500 and b'"field"' in reply.body:  # the worker's own word: it failed on this request alone
        return FailedOnIt("TorchServe's worker failed on this request")
    return Failed(f"TorchServe answered {reply.status}")
