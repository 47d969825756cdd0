"""Calls TorchServe's inference API: with its token, through a circuit breaker, within what is left of a deadline."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from serving.circuit_breaker import Breaker
from serving.edge.answer import FIELDS, SOURCES
from serving.torchserve.client import ServerError, TorchServe, prediction_path, token_refused
from web.errors import ApiError

log = logging.getLogger(__name__)

MIN_SECONDS = 0.001  # with less left a call is pointless
RENEW_SECONDS = 5
ABSENT_SECONDS = 10.0  # a version that was not found is replaced by the default one for this long
MAX_WAITING_PER_CONNECTION = 4  # more requests would wait past their deadlines anyway
CONNECTION_CUT = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError)

# Why TorchServe gave no answer; these label metrics.
UNREACHABLE, TIMED_OUT, INVALID, FAILED = "unreachable", "timeout", "invalid", "failed"
REQUEST_FAILED = "request_failed"  # the worker cannot answer this one request, other requests may succeed
CIRCUIT_OPEN, TOO_MANY_WAITING = "circuit_open", "too_many_waiting"  # not called
NOT_COUNTED = frozenset({REQUEST_FAILED, CIRCUIT_OPEN, TOO_MANY_WAITING})  # no failure for the circuit breaker


class NoAnswer(Exception):
    """TorchServe gave no answer that can be passed on. Clients read the text."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass
class TorchServeClient:
    """Asks one model for recommendations. Made within an event loop."""

    url: str
    management_url: str  # for new tokens only
    dataset: str  # the model's name
    token_file: Path  # TorchServe's key_file.json; without it no token is sent
    breaker: Breaker
    connections: int  # at most; further requests wait for one
    fair_seconds: float  # a server that takes longer than this failed; one that had less time did not
    observe: Callable[[str, float], None]  # called with (kind, seconds) of every call, for metrics

    def __post_init__(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self.connections, ttl_dns_cache=None, keepalive_timeout=None),
            timeout=aiohttp.ClientTimeout(total=None),  # every call has its own
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._waiting = 0
        self._token = _read_token(self.token_file)
        self._renewal: asyncio.Task | None = None
        self._absent_until: dict[str, float] = {}  # version -> until when it counts as not loaded

    def loaded_version(self, version: str | None) -> str | None:
        """The version to ask: the wanted one, or None (the default) while that is not loaded."""
        return version if version is None or self._absent_until.get(version, 0) < time.monotonic() else None

    async def recommend(self, body: bytes, version: str | None, seconds: float) -> dict[str, Any]:
        """The worker's answer to a request body.

        Raises:
            NoAnswer: there is none within `seconds`; the text says why.
            ApiError: the worker refuses the request.
        """
        if seconds < MIN_SECONDS:
            raise NoAnswer(TIMED_OUT, "no time was left to call TorchServe")
        if not self.breaker.allows():
            raise NoAnswer(CIRCUIT_OPEN, "TorchServe was not called because it kept failing")
        begun = time.perf_counter()
        kind = "answered"
        try:
            fields = await self._recommend(body, version, seconds)
            self.breaker.succeeded()
            return fields
        except NoAnswer as error:
            kind = error.kind
            impatient = kind == TIMED_OUT and seconds < self.fair_seconds
            if kind not in NOT_COUNTED and not impatient:  # or short deadlines of one client would affect everybody
                self.breaker.failed()
            raise
        except ApiError:
            kind = "refused"
            self.breaker.succeeded()
            raise
        finally:
            self.observe(kind, time.perf_counter() - begun)

    async def close(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
        await self._session.close()

    async def _recommend(self, body: bytes, version: str | None, seconds: float) -> dict[str, Any]:
        end = time.monotonic() + seconds
        status, content = await self._post(body, version, seconds)
        if _refuses_token(status, content):
            await self._renew_token(end - time.monotonic())
            status, content = await self._post(body, version, end - time.monotonic())
        if status == 404 and version is not None:
            log.warning("version %s is not loaded; its users get the default one", version)
            self._absent_until[version] = time.monotonic() + ABSENT_SECONDS
            status, content = await self._post(body, None, end - time.monotonic())
        if status == 200:
            return parse_worker_answer(content)
        raise _error(status, content)

    async def _post(self, body: bytes, version: str | None, seconds: float) -> tuple[int, bytes]:
        """Status and body of TorchServe's response."""
        if self._waiting >= self.connections * MAX_WAITING_PER_CONNECTION:
            text = f"TorchServe was not called: {self._waiting} requests already wait for it"
            raise NoAnswer(TOO_MANY_WAITING, text)
        self._waiting += 1
        try:
            async with asyncio.timeout(max(seconds, MIN_SECONDS)):
                try:
                    return await self._send(body, version)
                except CONNECTION_CUT:  # perhaps an idle connection that was just closed; predictions change nothing
                    return await self._send(body, version)
        except TimeoutError:
            raise NoAnswer(TIMED_OUT, f"TorchServe did not answer within {seconds * 1000:.0f} ms") from None
        except (*CONNECTION_CUT, aiohttp.ClientPayloadError):
            raise NoAnswer(UNREACHABLE, "TorchServe closed the connection") from None
        except aiohttp.ClientResponseError:
            raise NoAnswer(INVALID, "TorchServe's address does not answer in HTTP") from None
        finally:
            self._waiting -= 1

    async def _send(self, body: bytes, version: str | None) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        url = self.url + prediction_path(self.dataset, version)
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                return response.status, await response.read()
        except aiohttp.ClientConnectorError as error:  # one of CONNECTION_CUT, but another attempt would not help
            reason = error.os_error.strerror or type(error.os_error).__name__
            raise NoAnswer(UNREACHABLE, f"TorchServe cannot be reached ({reason})") from None

    async def _renew_token(self, seconds: float) -> None:
        """Read the file's token again; another task has TorchServe renew it where it is still refused."""
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(asyncio.to_thread(self._request_token))
        await asyncio.wait({self._renewal}, timeout=max(0.0, seconds))  # later requests profit from it
        self._token = _read_token(self.token_file)

    def _request_token(self) -> None:
        try:
            with TorchServe(self.url, self.management_url, self.token_file, timeout=RENEW_SECONDS) as client:
                client.ping()  # with the file's token, which it renews if that is refused
        except ServerError as error:
            log.warning("TorchServe's token could not be renewed: %s", error)


def parse_worker_answer(body: bytes) -> dict[str, Any]:
    """The fields of the worker's answer. Raises NoAnswer where it is not one."""
    try:
        fields = orjson.loads(body)
        valid = (
            all(name in fields for name in FIELDS)
            and fields["source"] in SOURCES
            and isinstance(fields["reason"], str)
            and isinstance(fields["model_version"], str)
            and all(isinstance(item["item_id"], str) for item in fields["items"])
        )
    except (ValueError, TypeError, KeyError):
        valid = False
    if not valid:
        raise NoAnswer(INVALID, "TorchServe's answer is not a recommendation")
    return fields


def _read_token(path: Path) -> str | None:
    try:
        return orjson.loads(path.read_bytes())["inference"]["key"]
    except (OSError, ValueError, KeyError, TypeError):  # no authorization there, or the file is being written
        return None


def _refuses_token(status: int, body: bytes) -> bool:
    if status == 200 or b'"field"' in body:  # a worker's own 400 names a field
        return False
    return token_refused(status, body.decode("utf-8", "replace"))


def _error(status: int, body: bytes) -> Exception:
    """What a response other than 200 means to the client."""
    if status == 413:
        return ApiError(413, "body", "the request is longer than TorchServe accepts")
    if b'"field"' in body:  # written by the worker
        if status == 500:
            return NoAnswer(REQUEST_FAILED, "TorchServe's worker failed on this request")
        if status == 400:
            error = orjson.loads(body)
            return ApiError(400, error["field"], error["message"])
    return NoAnswer(FAILED, f"TorchServe answered {status}")
