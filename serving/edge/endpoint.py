"""/v1/recommendations: from an HTTP request to an answer, a line in the served log and a count in the metrics."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from typing import Any

import orjson

from data.times import to_iso
from serving.edge import doorkeeper, incoming, wire
from serving.edge.answer import finish
from serving.edge.errors import Refusal
from serving.edge.experiment import NOBODY
from serving.edge.incoming import Receive
from serving.edge.keyring import Key
from serving.edge.ladder import Ask, Given
from serving.edge.pseudonym import pseudonym
from serving.edge.respond import Send, error, json
from serving.edge.service import Service
from serving.worker.request import RequestError, parse

log = logging.getLogger(__name__)

METHODS = ("GET", "POST")


async def recommendations(service: Service, scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answer one request; raises Gone where its client has left."""
    name = None
    try:
        head = incoming.headers(scope["headers"])
        name = incoming.request_id(head.request_id)
        key = service.doorkeeper.admit(head.authorization, head.api_key)
        body = await _stated(service, scope, receive, head)
        begun = asyncio.get_running_loop().time()
        ask = _ask(service, body, key, head, begun)
    except Refusal as refusal:
        service.metrics.refusals.labels(refusal.status).inc()
        await error(send, refusal, name or secrets.token_hex(16))
        return
    name = ask.request.request_id or name or secrets.token_hex(16)
    given = await _given(service, ask, name)
    if isinstance(given, Refusal):
        service.metrics.refusals.labels(given.status).inc()
        await error(send, given, name)
        return
    seconds = asyncio.get_running_loop().time() - begun
    _record(service, ask, key, given, name, seconds)
    await json(send, 200, finish(given.answer, _own(given, name)), name)
    if given.cache == "miss":
        service.shadow.offer(given.wire.body, given.answer)


async def _stated(service: Service, scope: dict[str, Any], receive: Receive, head: incoming.Headers) -> Any:
    if scope["method"] == "GET":
        return incoming.from_query(scope["query_string"])
    settings = service.settings
    return incoming.from_body(
        await incoming.read_body(receive, head.length, settings.max_body_bytes, settings.body_seconds)
    )


def _ask(service: Service, body: Any, key: Key, head: incoming.Headers, begun: float) -> Ask:
    allowed = incoming.deadline_ms(head.deadline, service.settings.deadline_ms)
    consent = incoming.consent(head.consent)
    try:
        request = parse(body, time.time_ns() // 1000)
    except RequestError as fault:
        raise Refusal(400, fault.field, fault.message) from None
    user = doorkeeper.whose(key, request.user_id)
    if user != request.user_id:
        request.user_id, body = user, body | {"user_id": user}
    return Ask(request, body, consent, allowed, begun + allowed / 1000)


async def _given(service: Service, ask: Ask, name: str) -> Given | Refusal:
    try:
        return await service.ladder.answer(ask)
    except Refusal as refusal:
        return refusal
    except Exception:  # whatever we got wrong, the client is answered
        log.exception("the static list answers, since the edge failed", extra={"request_id": name})
        service.metrics.errors.inc()
        answer = service.ladder.last_resort(ask, "the edge failed, which is logged")
        return Given(answer, NOBODY, "none", "unknown", wire.NOTHING)


def _own(given: Given, name: str) -> dict[str, Any]:
    bucket = given.bucket
    return {"request_id": name, "experiment": bucket.experiment, "bucket": bucket.arm, "cache": given.cache}


def _record(service: Service, ask: Ask, key: Key, given: Given, name: str, seconds: float) -> None:
    rung, metrics = given.answer.rung, service.metrics
    metrics.answers.labels(rung, given.cache, given.bucket.arm or "").inc()
    metrics.seconds.labels(rung).observe(seconds)
    metrics.consent.labels(given.consent).inc()
    if seconds * 1000 > ask.allowed_ms:
        metrics.late.labels(rung).inc()
    if service.served is not None:
        service.served.append(_line(service, ask, key, given, name, seconds))
    if service.kept is not None and given.wire.unlogged:
        service.kept.append(wire.kept(given.wire, name, to_iso(ask.request.time_us)))


def _line(service: Service, ask: Ask, key: Key, given: Given, name: str, seconds: float) -> bytes:
    """The served log's line: what was answered, and to whom under a name that only this service can give."""
    user = ask.request.user_id
    told = {
        **_own(given, name),
        "user": None if user is None else pseudonym(service.secret, user),
        "consent": given.consent,
        "dataset": service.settings.dataset,
        "basis": given.wire.basis,
        "unlogged": given.wire.unlogged,
        "key": key.id,
        "k": ask.request.k,
        "asked": to_iso(ask.request.time_us),
        "milliseconds": round(seconds * 1000, 2),
    }
    return given.answer.receipt + b"," + orjson.dumps(told)[1:]
