"""The event collector as a FastAPI application: routes, error responses and metrics.

It speaks Segment's HTTP API, so that its SDKs and those of others work unchanged:
https://segment.com/docs/connections/sources/catalog/libraries/server/http-api/
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from config.redact import install as install_redaction
from data.collect import api_schema, settings
from data.collect.collector import Status, Verdict, validate
from data.collect.messages import ITEM, KINDS, Arrival, Kind, find_message_id
from data.collect.request import MAX_BODY_BYTES, Body, decompress, key_in_headers, parse_body, parse_rows
from data.collect.schema import json_schema
from data.collect.service import CollectService
from data.collect.settings import CollectSettings
from data.collect.write_keys import WriteKey
from data.times import now_us
from web import connections
from web.errors import ApiError, as_api_error
from web.header_check import HeaderCheck
from web.request_body import read_body
from web.shutdown import CloseWhileDraining, drain_on_sigterm, end_with_parent

DESCRIPTION = "What is acknowledged is on disk. Each event gets a verdict, and one bad event costs its batch nothing."
UNREPEATABLE_HEADERS = (b"authorization", b"content-encoding")
PREFLIGHT_SECONDS = 86_400
RETRY_SECONDS = 1
ENCODER = msgspec.json.Encoder()
TRACKER = Path(__file__).with_name("tracker") / "tracker.js"
CLIENT_GONE = 499  # nobody reads it
SHORT_NAMES: dict[str, Kind] = {"t": "track", "i": "identify", "p": "page", "s": "screen", "g": "group", "a": "alias"}
COLLECT_PATHS: dict[str, Kind | None] = {
    **{f"/v1/{kind}": kind for kind in KINDS},
    **{f"/v1/{name}": kind for name, kind in SHORT_NAMES.items()},  # @segment/analytics-next
    "/v1/batch": None,
    "/v1/b": None,
    "/v1/import": None,
}
ROW_PATHS: dict[str, Kind] = {"/v1/users": "identify", "/v1/items": ITEM}
WORST_FIRST = (Status.REJECTED, Status.RETRY, Status.LIMITED, Status.ACCEPTED, Status.DUPLICATE)


def create_app(collect: CollectSettings | None = None) -> FastAPI:
    """The application. By default, with the settings of the environment.

    Raises:
        SettingsError, KeyFileError, MappingError: the environment, the write keys or the mapping are invalid.
    """
    install_redaction()
    service = CollectService(collect or settings.load())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        await service.start()
        drain_on_sigterm(service.begin_to_drain, service.settings.drain_seconds)
        end_with_parent()
        try:
            yield {connections.STATE: service.connections}
        finally:
            await service.stop()

    app = FastAPIOffline(  # Swagger UI from a package instead of a content delivery network
        redoc_url=None,
        title="Tidegate event collector",
        description=DESCRIPTION,
        version="1",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.service = service
    add_routes(app)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=["*"],  # a write key has its own list; without a key nothing is stored
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["Retry-After"],
        max_age=PREFLIGHT_SECONDS,
    )
    app.add_middleware(HeaderCheck, unrepeatable=UNREPEATABLE_HEADERS, refuse=error_response)
    app.add_middleware(CloseWhileDraining, is_draining=lambda: service.draining)
    app.add_exception_handler(HTTPException, handle_http_error)
    app.add_exception_handler(ClientDisconnect, lambda request, error: Response(status_code=CLIENT_GONE))
    api_schema.add_components(app.openapi())
    return app


# Routes


def add_routes(app: FastAPI) -> None:
    for path, kind in COLLECT_PATHS.items():
        app.add_api_route(
            path,
            collect_kind(kind),
            methods=["POST"],
            operation_id=f"collect_{path.rpartition('/')[2]}",
            responses=api_schema.describe_responses(),
            openapi_extra=api_schema.describe_operation(kind),
            include_in_schema=len(path.rpartition("/")[2]) > 1,
        )
    for path, kind in ROW_PATHS.items():
        app.add_api_route(
            path,
            upsert_kind(kind),
            methods=["POST"],
            operation_id=f"upsert_{path.rpartition('/')[2]}",
            responses=api_schema.describe_responses("RowResults"),
            openapi_extra=api_schema.describe_rows(),
        )
    app.add_api_route(
        "/v1/validate",
        validate_events,
        methods=["POST"],
        operation_id="validate",
        responses=api_schema.describe_responses(),
        openapi_extra=api_schema.describe_operation(None),
    )
    app.add_api_route("/v1/schema", schema, operation_id="schema")
    app.add_api_route(
        "/v1/projects/{write_key}/settings",
        source_settings,
        operation_id="source_settings",
        responses={status: api_schema.describe_responses()[status] for status in (401, 403)},
    )
    app.add_api_route("/tracker.js", tracker, include_in_schema=False)
    app.add_api_route("/livez", liveness, operation_id="liveness")
    app.add_api_route("/readyz", readiness, operation_id="readiness", responses={503: {"description": "Draining"}})


def collect_kind(kind: Kind | None) -> Any:
    async def collect(request: Request) -> Response:
        """Store events, and return a verdict on each once all that is accepted is on disk."""
        begun = time.perf_counter()
        body, key = await read_request(request, kind)
        if body.dropped:
            request.app.state.service.metrics.dropped_by_senders.labels(key.source).inc(body.dropped)
        return verdict_response(*await store(request, key, body.messages, body.arrival, begun))

    return collect


def upsert_kind(kind: Kind) -> Any:
    async def upsert(request: Request) -> Response:
        """Store rows of users or items, and return a verdict on each once all that is accepted is on disk.

        A row has an id, and may have an `event_time` and a `message_id`; what else it has are attributes.
        """
        begun = time.perf_counter()
        service: CollectService = request.app.state.service
        key = service.authenticator.authenticate(key_in_headers(request))
        if not key.profiles:
            raise ApiError(403, "authorization", "the write key may not send users and items", reason="profiles")
        content = await read_body(request, MAX_BODY_BYTES, service.settings.body_seconds, lambda length: None)
        content = decompress(content, request.headers.get("content-encoding", ""))
        messages = await asyncio.to_thread(parse_rows, content, request.headers.get("content-type", ""), kind)
        return row_response(*await store(request, key, messages, Arrival(now_us(), kind=kind), begun))

    return upsert


async def store(
    request: Request, key: WriteKey, messages: Sequence[bytes], arrival: Arrival, begun: float
) -> tuple[list[Verdict], float]:
    """Store messages; the verdicts, and the seconds after which what has to be sent again can be."""
    service: CollectService = request.app.state.service
    if wait := service.limits.take(key, len(messages), sum(map(len, messages))):
        text = "the write key sends too much"
        verdicts = [Verdict(find_message_id(raw), Status.LIMITED, message=text) for raw in messages]
    else:
        wait = RETRY_SECONDS
        reading = service.reading_for(key.purposes)
        verdicts = await service.collector.collect(messages, key.source, arrival, reading)
    service.metrics.record(key.source, verdicts, time.perf_counter() - begun)
    return verdicts, wait


async def validate_events(request: Request) -> Response:
    """Return the verdicts that these events would get; nothing is stored. Takes a batch, or one event with its `type`."""
    service: CollectService = request.app.state.service
    body, key = await read_request(request, None, or_single=True)
    verdicts = validate(body.messages, body.arrival, service.reading_for(key.purposes))
    return verdict_response(verdicts, RETRY_SECONDS)


async def schema() -> dict[str, Any]:
    """The JSON Schema of stored events, with the purposes, the privacy class and the retention of each field."""
    return json_schema()


async def source_settings(request: Request, write_key: str) -> dict[str, Any]:
    """The settings that @segment/analytics-next asks for when a page loads."""
    service: CollectService = request.app.state.service
    key = service.authenticator.authenticate(write_key)
    check_origin(request, key)
    host = f"{request.url.netloc}/v1"
    return {"integrations": {"Segment.io": {"apiKey": write_key, "apiHost": host, "protocol": request.url.scheme}}}


async def tracker() -> Response:
    """The browser tracker, to try it; a site serves the file itself, with its own caching."""
    return Response(TRACKER.read_bytes(), media_type="text/javascript")


async def liveness() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": "alive"}


async def readiness(request: Request, response: Response) -> dict[str, Any]:
    """Whether events can be stored: ready, degraded (the log failed at the last batch), or draining."""
    state = request.app.state.service.readiness()
    response.status_code = 503 if state["status"] == "draining" else 200
    return state


async def read_request(request: Request, kind: Kind | None, or_single: bool = False) -> tuple[Body, WriteKey]:
    """The messages of a request, and the write key that sends them. Raises ApiError."""
    service: CollectService = request.app.state.service
    text = key_in_headers(request)
    key = None if text is None else service.authenticator.authenticate(text)
    content = await read_body(request, MAX_BODY_BYTES, service.settings.body_seconds, lambda length: None)
    body = parse_body(decompress(content, request.headers.get("content-encoding", "")), kind, or_single)
    key = key or service.authenticator.authenticate(body.write_key)  # a beacon has no headers of its own
    check_origin(request, key)
    return body, key


def check_origin(request: Request, key: WriteKey) -> None:
    """Raises ApiError: 403 where the key is for other web pages."""
    if key.origins and request.headers.get("origin") not in key.origins:
        raise ApiError(403, "origin", f"the write key is for pages of {', '.join(key.origins)}", reason="origin")


# Responses


def verdict_response(verdicts: Sequence[Verdict], wait: float) -> Response:
    """200 with a verdict for each message id. 429 or 503 where some have to be sent again, for clients that read no
    verdicts: whoever sends all of them again does no harm.

    Messages without an id that can be read are named by their place: `[0]`, `[1]` ...
    """
    results: dict[str, Verdict] = {}
    for number, verdict in enumerate(verdicts):
        name = verdict.message_id or f"[{number}]"
        known = results.get(name)
        if known is None or WORST_FIRST.index(verdict.status) < WORST_FIRST.index(known.status):
            results[name] = verdict
    content = {"results": {name: verdict.public() for name, verdict in results.items()}}
    return respond(content, verdicts, wait)


def row_response(verdicts: Sequence[Verdict], wait: float) -> Response:
    """As `verdict_response`, with a verdict for each row, in order."""
    return respond({"results": [verdict.public() for verdict in verdicts]}, verdicts, wait)


def respond(content: dict[str, Any], verdicts: Sequence[Verdict], wait: float) -> Response:
    statuses = {verdict.status for verdict in verdicts}
    status = 503 if Status.RETRY in statuses else 429 if Status.LIMITED in statuses else 200
    headers = {} if status == 200 else {"Retry-After": str(math.ceil(wait))}
    return Response(ENCODER.encode(content), status, headers, media_type="application/json")


def error_response(request: Request, error: ApiError) -> Response:
    """{"code", "field", "message"}, counted."""
    request.app.state.service.metrics.refusals.labels(error.status_code, error.reason).inc()
    body = {"code": error.status_code, "field": error.field, "message": error.detail}
    return Response(json.dumps(body), error.status_code, error.headers, media_type="application/json")


async def handle_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return error_response(request, as_api_error(request, error))
