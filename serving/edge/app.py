"""The edge as a FastAPI application: routes, error responses, and what is recorded of each answer."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from config.redact import install as install_redaction
from data.columns import EVENT_TIME, ITEM, USER
from data.times import to_iso
from serving.edge import models, settings
from serving.edge.answer import client_body, log_line
from serving.edge.consent import UNKNOWN, OnlineProfileReader, ProfileReader
from serving.edge.keys import ApiKey
from serving.edge.models import Liveness, Readiness, RequestHeaders
from serving.edge.recommend import MISS, NO_WORKER_REQUEST, NONE, Call, Recommendation
from serving.edge.request_log import kept_request, pseudonym
from serving.edge.request_parsing import (
    UNREPEATABLE_HEADERS,
    check_structure,
    parse_headers,
    parse_json,
    parse_query,
    read_key,
    usable_request_id,
)
from serving.edge.rollout_trial import NO_BUCKET
from serving.edge.service import EdgeService
from serving.edge.settings import EdgeSettings
from serving.worker.request import RequestError, parse
from web import connections
from web.errors import ApiError, as_api_error
from web.header_check import HeaderCheck
from web.request_body import read_body
from web.shutdown import CloseWhileDraining, drain_on_sigterm, end_with_parent

log = logging.getLogger(__name__)

PATH = "/v1/recommendations"
DESCRIPTION = "Every request with a valid key is answered within its deadline; the answer says what it is based on."
CLIENT_GONE = 499  # nobody reads it


def create_app(edge: EdgeSettings | None = None, profiles: ProfileReader | None = None) -> FastAPI:
    """The application. By default, with the settings and the online store of the environment.

    Raises:
        SettingsError, KeyFileError, SecretError: the environment, the keys or the secret are invalid.
    """
    install_redaction()  # each of several workers is a process of its own
    edge = edge or settings.load()
    service = EdgeService(edge, profiles or OnlineProfileReader.from_environment(edge.dataset))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        await service.start()
        drain_on_sigterm(service.begin_to_drain, edge.drain_seconds)
        end_with_parent()
        try:
            yield {connections.STATE: service.connections}
        finally:
            await service.stop()

    app = FastAPIOffline(  # Swagger UI from a package instead of a content delivery network
        redoc_url=None,
        title="Tidegate recommendations",
        description=DESCRIPTION,
        version="1",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.service = service
    add_routes(app)
    app.add_middleware(HeaderCheck, unrepeatable=UNREPEATABLE_HEADERS, refuse=error_response)
    app.add_middleware(CloseWhileDraining, is_draining=lambda: service.draining)
    app.add_exception_handler(HTTPException, handle_http_error)
    app.add_exception_handler(ClientDisconnect, lambda request, error: Response(status_code=CLIENT_GONE))
    models.add_components(app.openapi())
    return app


# Routes


def add_routes(app: FastAPI) -> None:
    app.add_api_route(
        PATH,
        recommend,
        methods=["POST"],
        operation_id="recommend",
        responses=models.describe_responses(models.ERRORS | models.BODY_ERRORS),
        openapi_extra=models.describe_operation(reads_body=True),
    )
    app.add_api_route(
        PATH,
        recommend,
        methods=["GET"],
        operation_id="recommend_by_query",
        responses=models.describe_responses(models.ERRORS),
        openapi_extra=models.describe_operation(reads_body=False),
    )
    app.add_api_route("/livez", liveness, operation_id="liveness")
    not_ready: dict[int | str, dict[str, Any]] = {503: {"model": Readiness, "description": "Not ready, or draining."}}
    app.add_api_route("/readyz", readiness, operation_id="readiness", responses=not_ready)


async def recommend(request: Request) -> Response:
    """Recommend items to a user. GET takes the request from the query string, with context.NAME and filters.NAME."""
    service: EdgeService = request.app.state.service
    key = service.authenticator.authenticate(read_key(request))
    limits = service.limits.of(key)
    limits.take_request(key)
    headers = parse_headers(request)
    check = partial(
        checked_call,
        key=key,
        headers=headers,
        max_deadline_ms=service.settings.deadline_ms,
        numeric_ids=service.pipeline.fallback.numeric_ids,
    )
    if request.method == "POST":
        count = partial(limits.take_bytes, key)
        content = await read_body(request, limits.max_body_bytes, service.settings.body_seconds, count)
        check_structure(content, limits.max_values)
        begun = asyncio.get_running_loop().time()
        call = await service.heavy_bodies.run(key.id, len(content), lambda: check(parse_json(content), begun=begun))
    else:
        begun = asyncio.get_running_loop().time()
        call = check(parse_query(request.scope["query_string"]), begun=begun)
    request.state.request_id = request_id = call.request.request_id or request_id_of(request)
    result = await answer(service, call, request_id)
    seconds = asyncio.get_running_loop().time() - begun
    client_fields = {
        "request_id": request_id,
        "experiment": result.bucket.experiment,
        "bucket": result.bucket.arm,
        "cache": result.cache,
    }
    record(service, call, key, result, client_fields, seconds)
    if result.cache == MISS:
        service.shadow.offer(result.worker_request.body, result.answer, key.user_id)
    return json_response(client_body(result.answer, client_fields), request_id)


async def liveness() -> Liveness:
    """Whether the process answers."""
    return Liveness()


async def readiness(request: Request, response: Response) -> Readiness:
    """Whether every request with a valid key can be answered, from what, and the state of each part."""
    state = request.app.state.service.readiness()
    response.status_code = 200 if state.status in ("ready", "degraded") else 503
    return state


def checked_call(
    body: Any, key: ApiKey, headers: RequestHeaders, max_deadline_ms: int, begun: float, numeric_ids: Collection[str]
) -> Call:
    """The request of a body, for the user that the key is for, with one spelling per id. Raises ApiError: 400 or 403."""
    try:
        request = parse(body, time.time_ns() // 1000, numeric_ids)
    except RequestError as error:
        raise ApiError(400, error.field, error.message) from None
    if history := body.get("history"):  # an event's further fields are not passed on
        pairs = zip(request.history, history, strict=True)
        body = body | {"history": [{ITEM: item, EVENT_TIME: event[EVENT_TIME]} for (item, _), event in pairs]}
    if request.exclude:
        body = body | {"exclude": request.exclude}
    request.user_id = key.permitted_user(request.user_id, USER in numeric_ids)
    if request.user_id is not None:
        body = body | {"user_id": request.user_id}
    deadline_ms = min(headers.deadline_ms or max_deadline_ms, max_deadline_ms)
    consent = None if headers.consent is None else headers.consent == "granted"
    return Call(request, body, consent, deadline_ms, begun + deadline_ms / 1000, key.user_id)


async def answer(service: EdgeService, call: Call, request_id: str) -> Recommendation:
    """The pipeline's answer, or the static list if it fails. Raises ApiError: the worker refuses the request."""
    try:
        return await service.pipeline.recommend(call)
    except ApiError:
        raise
    except Exception:  # whatever we got wrong, the client is answered
        log.exception("the static list answers because the edge failed", extra={"request_id": request_id})
        service.metrics.errors.inc()
        reason = "the edge failed, which is logged"
        static = service.pipeline.fallback.static_answer(call.request, reason, call.request.exclude)
        return Recommendation(static, NO_BUCKET, NONE, UNKNOWN, NO_WORKER_REQUEST)


def record(
    service: EdgeService, call: Call, key: ApiKey, result: Recommendation, client_fields: dict[str, Any], seconds: float
) -> None:
    """Count an answer, and write its line of the served log, which names the user by a pseudonym."""
    source, metrics, user_id = result.answer.source, service.metrics, call.request.user_id
    metrics.answers.labels(source, result.cache, result.bucket.arm or "").inc()
    metrics.seconds.labels(source).observe(seconds)
    metrics.consent.labels(result.consent).inc()
    if seconds * 1000 > call.deadline_ms:
        metrics.late.labels(source).inc()
    request_time = to_iso(call.request.time_us)
    fields = {
        **client_fields,
        "user": None if user_id is None else pseudonym(service.user_key.secret, user_id),
        "user_key": service.user_key.id,
        "consent": result.consent,
        "dataset": service.settings.dataset,
        "history_source": result.worker_request.history_source,
        "unlogged_fields": result.worker_request.unlogged,
        "key": key.id,
        "k": call.request.k,
        "request_time": request_time,
        "milliseconds": round(seconds * 1000, 2),
    }
    service.served_log.append(log_line(result.answer, fields))
    if service.kept_requests is not None and result.worker_request.unlogged:
        line = kept_request(result.worker_request.body, client_fields["request_id"], request_time)
        service.kept_requests.append(line)


# Responses


def json_response(body: bytes, request_id: str, status: int = 200) -> Response:
    """An id that no header can carry stays in the body only."""
    headers = {"X-Request-Id": request_id} if usable_request_id(request_id) else {}
    return Response(body, status, headers, media_type="application/json")


def request_id_of(request: Request) -> str:
    """The id of a request: the one in its body if that was read, else its header's, else a new one."""
    request_id = getattr(request.state, "request_id", None)
    return request_id or usable_request_id(request.headers.get("x-request-id")) or secrets.token_hex(16)


def error_response(request: Request, error: ApiError) -> Response:
    """{"code", "field", "message"}, counted."""
    request.app.state.service.metrics.refusals.labels(error.status_code, error.reason).inc()
    body = {"code": error.status_code, "field": error.field, "message": error.detail}
    response = json_response(json.dumps(body).encode(), request_id_of(request), error.status_code)
    response.headers.update(error.headers or {})
    return response


async def handle_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_response(request, as_api_error(request, error))
