"""Calls TorchServe's inference API: with its token, through a circuit breaker, within what is left of a deadline."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import orjson

from serving.circuit_breaker import Breaker
from serving.edge.answer import FIELDS, SOURCES
from serving.edge.models import ApiError
from serving.torchserve.client import ServerError, TorchServe, prediction_path, token_refused

log = logging.getLogger(__name__)

MIN_SECONDS = 0.001  # with less left a call is pointless
RENEW_SECONDS = 5
ABSENT_SECONDS = 10.0  # a version that was not found is replaced by the default one for this long
MAX_WAITING_PER_CONNECTION = 4  # more requests would wait past their deadlines anyway
CONNECTION_CUT = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError)


class NoAnswer(Exception):
    """TorchServe gave no answer that can be passed on.

    Unreachable       no connection, or it was cut
    TimedOut          nothing within the time that was left
    InvalidAnswer     something came that is no recommendation
    ServerFailed      an error status
    RequestFailed     the worker cannot answer this one request, which says nothing of others
    CircuitOpen       not called, since it kept failing
    TooManyWaiting    not called, since too many requests wait already

    Attributes:
        kind: labels metrics.
        counts: whether the circuit breaker counts it as the server's failure.
        text: the reason that the client reads.
    """

    kind, counts = "none", True

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Unreachable(NoAnswer):
    kind = "unreachable"


class TimedOut(NoAnswer):
    kind = "timeout"


class InvalidAnswer(NoAnswer):
    kind = "invalid"


class ServerFailed(NoAnswer):
    kind = "failed"


class RequestFailed(NoAnswer):
    kind, counts = "request_failed", False


class CircuitOpen(NoAnswer):
    kind, counts = "circuit_open", False


class TooManyWaiting(NoAnswer):
    kind, counts = "too_many_waiting", False


class TorchServeReply(NamedTuple):
    """What TorchServe sent."""

    status: int
    body: bytes


class TorchServeClient:
    """Asks one model for recommendations. Made within an event loop.

    Args:
        url: TorchServe's inference address; `management_url` is used for new tokens only.
        dataset: the model's name.
        token_file: TorchServe's key_file.json; without it no token is sent.
        connections: at most; further requests wait for one.
        fair_seconds: a server that takes longer than this failed; one that was given less did not.
        observe: called with (kind, seconds) of every call, for metrics.
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
        observe: Callable[[str, float], None] = lambda kind, seconds: None,
    ) -> None:
        self._url, self._management_url, self._dataset = url, management_url, dataset
        self._token_file, self.breaker = token_file, breaker
        self._connections, self._fair_seconds, self._observe = connections, fair_seconds, observe
        connector = aiohttp.TCPConnector(limit=connections, ttl_dns_cache=None, keepalive_timeout=None)
        # No total timeout: every call has its own.
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=None), cookie_jar=aiohttp.DummyCookieJar()
        )
        self._waiting = 0
        self._token = _read_token(token_file)
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
            raise TimedOut("no time was left to call TorchServe")
        if not self.breaker.allows():
            raise CircuitOpen("TorchServe was not called because it kept failing")
        begun = time.perf_counter()
        kind = "answered"
        try:
            fields = await self._recommend(body, version, seconds)
            self.breaker.succeeded()
            return fields
        except NoAnswer as error:
            kind = error.kind
            impatient = isinstance(error, TimedOut) and seconds < self._fair_seconds
            if error.counts and not impatient:  # or one client's short deadlines would degrade everybody's answers
                self.breaker.failed()
            raise
        except ApiError:
            kind = "refused"
            self.breaker.succeeded()
            raise
        finally:
            self._observe(kind, time.perf_counter() - begun)

    async def close(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
        await self._session.close()

    async def _recommend(self, body: bytes, version: str | None, seconds: float) -> dict[str, Any]:
        end = time.monotonic() + seconds
        reply = await self._post(body, version, seconds)
        if _refuses_token(reply):
            await self._renew_token(end - time.monotonic())
            reply = await self._post(body, version, end - time.monotonic())
        if reply.status == 404 and version is not None:
            log.warning("version %s is not loaded; its users get the default one", version)
            self._absent_until[version] = time.monotonic() + ABSENT_SECONDS
            reply = await self._post(body, None, end - time.monotonic())
        if reply.status == 200:
            return parse_worker_answer(reply.body)
        raise _error(reply)

    async def _post(self, body: bytes, version: str | None, seconds: float) -> TorchServeReply:
        if self._waiting >= self._connections * MAX_WAITING_PER_CONNECTION:
            raise TooManyWaiting(f"TorchServe was not called: {self._waiting} requests already wait for it")
        self._waiting += 1
        try:
            async with asyncio.timeout(max(seconds, MIN_SECONDS)):
                return await self._send(body, version)
        except TimeoutError:
            raise TimedOut(f"TorchServe did not answer within {seconds * 1000:.0f} ms") from None
        finally:
            self._waiting -= 1

    async def _send(self, body: bytes, version: str | None) -> TorchServeReply:
        try:
            return await self._send_once(body, version)
        except CONNECTION_CUT:
            pass  # an idle connection may have been closed just now; to ask again is safe, since asking changes nothing
        try:
            return await self._send_once(body, version)
        except CONNECTION_CUT:
            raise Unreachable("TorchServe closed the connection") from None

    async def _send_once(self, body: bytes, version: str | None) -> TorchServeReply:
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        url = self._url + prediction_path(self._dataset, version)
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                return TorchServeReply(response.status, await response.read())
        except aiohttp.ClientConnectorError as error:
            reason = error.os_error.strerror or type(error.os_error).__name__
            raise Unreachable(f"TorchServe cannot be reached ({reason})") from None
        except aiohttp.ClientPayloadError:
            raise Unreachable("TorchServe closed the connection") from None
        except aiohttp.ClientResponseError:
            raise InvalidAnswer("TorchServe's address does not answer in HTTP") from None

    async def _renew_token(self, seconds: float) -> None:
        """Get a valid token: read the file again; if it has no other token, ask TorchServe for a new one."""
        fresh = _read_token(self._token_file)
        if fresh is not None and fresh != self._token:
            self._token = fresh
            return
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(asyncio.to_thread(self._request_token))
        await asyncio.wait({self._renewal}, timeout=max(0.0, seconds))  # later requests profit from it
        self._token = _read_token(self._token_file)

    def _request_token(self) -> None:
        try:
            with TorchServe(self._url, self._management_url, self._token_file, timeout=RENEW_SECONDS) as client:
                client.ping()  # renews a refused token with the server's own key
        except ServerError as error:
            log.warning("TorchServe's token could not be renewed: %s", error)


def parse_worker_answer(body: bytes) -> dict[str, Any]:
    """The fields of the worker's answer. Raises InvalidAnswer."""
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
        raise InvalidAnswer("TorchServe's answer is not a recommendation")
    return fields


def _read_token(path: Path) -> str | None:
    try:
        return orjson.loads(path.read_bytes())["inference"]["key"]
    except (OSError, ValueError, KeyError, TypeError):  # no authorization there, or the file is being written
        return None


def _refuses_token(reply: TorchServeReply) -> bool:
    if reply.status == 200 or b'"field"' in reply.body:  # a worker's own 400 names a field
        return False
    return token_refused(reply.status, reply.body.decode("utf-8", "replace"))


def _error(reply: TorchServeReply) -> Exception:
    """What an answer other than 200 means to the client."""
    if reply.status == 413:
        return ApiError(413, "body", "the request is longer than TorchServe accepts")
    if reply.status == 400:
        try:
            error = orjson.loads(reply.body)
            return ApiError(400, str(error["field"]), str(error["message"]))
        except (ValueError, KeyError, TypeError):
            pass
    if reply.status == 500 and b'"field"' in reply.body:  # written by the worker: it failed on this request only
        return RequestFailed("TorchServe's worker failed on this request")
    return ServerFailed(f"TorchServe answered {reply.status}")
