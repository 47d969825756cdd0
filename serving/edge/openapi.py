"""The OpenAPI description. Declared here, apart from the code that answers; the tests hold both together."""

from __future__ import annotations

from typing import Any

from serving.edge.answer import RUNGS
from serving.edge.incoming import CONSENT_HEADER, DEADLINE_HEADER, ID_HEADER, LEAST_DEADLINE_MS, MOST_ID
from serving.edge.settings import EdgeSettings
from serving.worker.request import DEFAULT_K, MAX_HISTORY, MAX_K, MAX_VALUES

MOST_TEXT = 256
WHY = {
    200: "Recommendations; `rung` and `reason` say what they rest on.",
    400: "The request is malformed; `field` names what is wrong.",
    401: "No API key, or one that is unknown, revoked or expired.",
    403: "The API key may ask for one user, and this is another.",
    405: "The path knows other methods, named in Allow.",
    408: "The headers or the body did not arrive in time.",
    413: "The body is too long.",
    429: "The API key asks too often; Retry-After says when to go on.",
    431: "The request line and the headers are too long.",
}
GET_STATUSES = (200, 400, 401, 403, 408, 429, 431)
POST_STATUSES = (200, 400, 401, 403, 408, 413, 429, 431)


def text(about: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "description": about, **more}


def maybe(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema, or null."""
    return {**schema, "type": [schema["type"], "null"]}


ID = text("Whom to recommend to.", maxLength=MOST_TEXT)
TIME = text(
    "The moment asked about, ISO 8601; without an offset UTC. In UTC, too, its year is 1 to 9999. Default: now.",
    format="date-time",
)
K: dict[str, Any] = {
    "type": "integer",
    "minimum": 1,
    "maximum": MAX_K,
    "default": DEFAULT_K,
    "description": "How many items.",
}
EVENT = {
    "type": "object",
    "required": ["item_id", "event_time"],
    "properties": {"item_id": text("The item."), "event_time": text("When, ISO 8601.", format="date-time")},
}
REQUEST = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "user_id": maybe(ID),
        "history": {
            "type": ["array", "null"],
            "maxItems": MAX_HISTORY,
            "items": EVENT,
            "description": "What the user did, in any order; it wins over a stored history.",
        },
        "k": K,
        "time": maybe(TIME),
        "context": {
            "type": ["object", "null"],
            "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
            "description": "Traits of the user and of the moment, by name.",
        },
        "exclude": {
            "type": ["array", "null"],
            "items": {"type": "string"},
            "description": "Items that are not to be recommended.",
        },
        "filters": {
            "type": ["object", "null"],
            "additionalProperties": {
                "type": ["string", "array"],
                "items": {"type": "string"},
                "minItems": 1,
                "maxItems": MAX_VALUES,
            },
            "description": "Item attribute -> values, any of which will do; every attribute must be met.",
        },
        "request_id": maybe(text("Given back, and logged: put nothing personal in it.", maxLength=MOST_ID)),
    },
}
ITEM = {
    "type": "object",
    "required": ["item_id", "score"],
    "properties": {
        "item_id": text("The item."),
        "score": {"type": "number", "description": "Comparable within one answer alone."},
        "title": maybe(text("Its title, where one is known.")),
    },
}
ANSWER_PROPERTIES = {
    "items": {"type": "array", "items": ITEM, "description": "Best first."},
    "rung": text("What the answer rests on.", enum=list(RUNGS)),
    "reason": text("Why it stands on that rung."),
    "time": text("The moment it is of.", format="date-time"),
    "trends_time": maybe(text("As of when popularity was counted.", format="date-time")),
    "feature_time": maybe(text("The user's latest known event.", format="date-time")),
    "model_version": text("The version that made it; empty where none was ever deployed."),
    "dataset_version": text("The data that version was fitted on."),
    "segments": {"type": "array", "items": {"type": "string"}, "description": "The user's segments."},
    "request_id": text("The request's own, or one that was made for it."),
    "experiment": maybe(text("The experiment that the user takes part in.")),
    "bucket": maybe(text("The user's arm of it.")),
    "cache": text("Whether it had been computed before.", enum=["hit", "miss", "shared", "none"]),
}
ANSWER = {"type": "object", "required": sorted(ANSWER_PROPERTIES), "properties": ANSWER_PROPERTIES}
ERROR = {
    "type": "object",
    "required": ["code", "field", "message"],
    "additionalProperties": False,
    "properties": {
        "code": {"type": "integer", "description": "The status."},
        "field": maybe(text("What is wrong in the request.")),
        "message": text("What was expected."),
    },
}


def describe(settings: EdgeSettings) -> dict[str, Any]:
    """The whole document, OpenAPI 3.1."""
    schemas = {"Request": REQUEST, "Answer": ANSWER, "Error": ERROR}
    security = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Tidegate recommendations",
            "version": "1",
            "description": "Every request with a valid key is answered within its deadline, and told from what.",
        },
        "security": [{"bearer": []}, {"header": []}],
        "paths": {"/v1/recommendations": _recommendations(settings), **_open_paths()},
        "components": {"schemas": schemas, "securitySchemes": security},
    }


def _recommendations(settings: EdgeSettings) -> dict[str, Any]:
    body = {"required": True, "content": {"application/json": {"schema": _ref("Request")}}}
    return {
        "post": {
            "operationId": "recommend",
            "summary": "Recommend",
            "parameters": _headers(settings),
            "requestBody": body,
            "responses": {str(status): _response(status) for status in POST_STATUSES},
        },
        "get": {
            "operationId": "recommend_by_query",
            "summary": "Recommend, asked by a query string",
            "parameters": [*_query(), *_headers(settings)],
            "responses": {str(status): _response(status) for status in GET_STATUSES},
        },
    }


def _headers(settings: EdgeSettings) -> list[dict[str, Any]]:
    within = f"Milliseconds to answer in; at most {settings.deadline_ms}, which is the default."
    whole = {"type": "integer", "minimum": LEAST_DEADLINE_MS, "maximum": 999_999_999}
    return [
        _parameter("header", DEADLINE_HEADER, whole, within),
        _parameter(
            "header",
            CONSENT_HEADER,
            {"type": "string", "enum": ["granted", "denied"]},
            "A `denied` always holds, a `granted` where nobody else asked.",
        ),
        _parameter("header", ID_HEADER, {"type": "string"}, "An id for the request, where its body states none."),
    ]


def _query() -> list[dict[str, Any]]:
    exclude = {"type": "array", "items": {"type": "string"}}
    return [
        _parameter("query", "user_id", ID, ID["description"]),
        _parameter("query", "k", K, K["description"]),
        _parameter("query", "time", TIME, TIME["description"]),
        _parameter("query", "exclude", exclude, "An item that is not to be recommended; may be repeated."),
        _parameter("query", "request_id", text("", maxLength=MOST_ID), "Given back, and logged."),
    ]


def _parameter(place: str, name: str, schema: dict[str, Any], about: str) -> dict[str, Any]:
    return {"in": place, "name": name, "required": False, "description": about, "schema": schema}


def _response(status: int) -> dict[str, Any]:
    schema = _ref("Answer" if status == 200 else "Error")
    return {"description": WHY[status], "content": {"application/json": {"schema": schema}}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _open_paths() -> dict[str, Any]:
    """Paths that want no key."""
    told = {"content": {"application/json": {"schema": {"type": "object"}}}}
    alive = {"200": {"description": "The process answers.", **told}}
    ready = {
        "200": {"description": "Every request with a valid key can be answered.", **told},
        "503": {"description": "There are no keys, or nothing at all to answer with.", **told},
    }
    return {
        "/healthz": {"get": {"operationId": "health", "security": [], "responses": alive}},
        "/readyz": {"get": {"operationId": "readiness", "security": [], "responses": ready}},
    }
