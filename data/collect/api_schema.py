"""The OpenAPI parts that FastAPI cannot see, since the routes read keys and bodies themselves."""

from __future__ import annotations

from typing import Any

from data.collect.collector import Status
from data.collect.messages import KINDS, MAX_EVENT_BYTES, MAX_MESSAGE_ID, Kind, Reason
from data.collect.request import MAX_BATCH_BYTES, MAX_MESSAGES
from data.collect.rows import CONTENT_TYPES

SECURITY = {
    "basic": {"type": "http", "scheme": "basic", "description": "The write key as user name, no password."},
    "bearer": {"type": "http", "scheme": "bearer"},
}
ID = {"type": ["string", "integer", "null"]}
MESSAGE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "messageId": {"type": "string", "minLength": 1, "maxLength": MAX_MESSAGE_ID},
        "type": {"enum": list(KINDS)},
        "userId": ID,
        "anonymousId": ID,
        "event": {"type": "string", "description": "Of a track message: the name of its event."},
        "name": {"type": "string"},
        "properties": {"type": "object"},
        "traits": {"type": "object"},
        "previousId": ID,
        "groupId": ID,
        "context": {"type": "object"},
        "timestamp": {"type": "string", "format": "date-time"},
        "sentAt": {"type": "string", "format": "date-time"},
        "writeKey": {"type": "string"},
    },
    "example": {"userId": "u1", "event": "view", "properties": {"item_id": "i1"}, "messageId": "m1"},
}
BATCH: dict[str, Any] = {
    "type": "object",
    "properties": {
        "batch": {"type": "array", "maxItems": MAX_MESSAGES, "items": {"$ref": "#/components/schemas/Message"}},
        "sentAt": {"type": "string", "format": "date-time"},
        "writeKey": {"type": "string"},
    },
    "required": ["batch"],
    "description": f"At most {MAX_BATCH_BYTES} bytes of JSON, and {MAX_EVENT_BYTES} an event.",
}
VERDICT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "status": {"enum": list(Status), "description": "Send `limited` and `retry` again, and nothing else."},
        "reason": {"enum": list(Reason), "description": "Why the event was rejected."},
        "field": {"type": "string", "description": "The field that is wrong."},
        "message": {"type": "string", "description": "What is wrong, and what to do."},
        "purposes": {"type": "array", "items": {"type": "string"}, "description": "What the event may serve."},
        "position": {"type": "string", "description": "Its place in the log, PARTITION:OFFSET."},
    },
    "required": ["status"],
    "additionalProperties": False,
}
RESULTS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "results": {"type": "object", "additionalProperties": {"$ref": "#/components/schemas/Verdict"}},
    },
    "required": ["results"],
    "additionalProperties": False,
}
ROW_RESULTS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "results": {
            "type": "array",
            "items": {"$ref": "#/components/schemas/Verdict"},
            "description": "A verdict for each row, in order.",
        },
    },
    "required": ["results"],
    "additionalProperties": False,
}
ERROR: dict[str, Any] = {
    "type": "object",
    "properties": {
        "code": {"type": "integer", "description": "The HTTP status."},
        "field": {"type": ["string", "null"], "description": "The part of the request that is wrong."},
        "message": {"type": "string", "description": "What is wrong with it."},
    },
    "required": ["code", "field", "message"],
}
VERDICTS = {
    200: "A verdict for each message id. What is accepted is on disk.",
    429: "The write key sends too much, or the log is behind; verdicts are `limited`. Retry-After says when to go on.",
    503: "Some events could not be stored; their verdict is `retry`. Send all of them, or those, again.",
}
ERRORS = {
    400: "The body is not JSON, too large, or has no list of events.",
    401: "There is no write key, or it is unknown, revoked or expired.",
    403: "The write key is for pages of another origin, or may not send users and items.",
    408: "The body did not arrive in time.",
    413: "The body is too long to be read.",
    415: "Users and items: the content type is none of those listed.",
    431: "The headers are too long or too many.",
}


def describe_responses(results: str = "Results") -> dict[int | str, dict[str, Any]]:
    """The responses of an operation, as FastAPI takes them; `results` names the schema of the verdicts."""
    schemas = {**dict.fromkeys(VERDICTS, results), **dict.fromkeys(ERRORS, "Error")}
    return {
        status: {"description": text, "content": _json(schemas[status])} for status, text in (VERDICTS | ERRORS).items()
    }


def describe_operation(kind: Kind | None) -> dict[str, Any]:
    """The body and the authorization of an operation; `kind` None is a batch."""
    body = {"required": True, "content": _json("Batch" if kind is None else "Message")}
    return {"requestBody": body, "security": [{name: []} for name in SECURITY]}


def describe_rows() -> dict[str, Any]:
    """The body and the authorization of an operation that takes rows."""
    content = {name: {"schema": {"type": "string", "format": "binary"}} for name in CONTENT_TYPES}
    return {"requestBody": {"required": True, "content": content}, "security": [{name: []} for name in SECURITY]}


def add_components(openapi: dict[str, Any]) -> None:
    """Add what operations refer to."""
    components = openapi.setdefault("components", {})
    components["securitySchemes"] = SECURITY
    schemas = {
        "Message": MESSAGE,
        "Batch": BATCH,
        "Verdict": VERDICT,
        "Results": RESULTS,
        "RowResults": ROW_RESULTS,
        "Error": ERROR,
    }
    components.setdefault("schemas", {}).update(schemas)


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}
