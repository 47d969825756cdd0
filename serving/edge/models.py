"""What the API takes in headers and returns, as Pydantic models; FastAPI builds the OpenAPI description from them.

The request body is `serving.worker.request.RecommendationRequest`, which the worker checks too.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from serving.worker.request import RecommendationRequest

HEADERS = DEADLINE_HEADER, CONSENT_HEADER, REQUEST_ID_HEADER = "X-Deadline-Ms", "X-Consent", "X-Request-Id"
MIN_DEADLINE_MS, MAX_DEADLINE_MS = 10, 999_999_999
QUERY_FIELDS = ("user_id", "k", "time", "exclude", "request_id")  # context.NAME and filters.NAME have no fixed names

SCHEMA_PATH = "#/components/schemas/{model}"
SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}
Moment = Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class RequestHeaders(BaseModel):
    """Headers of /v1/recommendations other than the API key."""

    deadline_ms: int | None = Field(
        None,
        alias=DEADLINE_HEADER,
        ge=MIN_DEADLINE_MS,
        le=MAX_DEADLINE_MS,
        description="Milliseconds to answer in. The server's own deadline is the default and the maximum.",
    )
    consent: Literal["granted", "denied"] | None = Field(
        None,
        alias=CONSENT_HEADER,
        description="The user's consent. `denied` always holds; `granted` holds where the profile store has no answer.",
    )
    request_id: str | None = Field(
        None, alias=REQUEST_ID_HEADER, description="An id for the request, where its body has none."
    )


class RecommendedItem(BaseModel, extra="forbid"):
    """One recommended item."""

    item_id: str
    score: float = Field(description="Comparable within one answer only.")
    title: str | None = Field(None, description="The item's title, where one is known.")


class RecommendationResponse(BaseModel, extra="forbid"):
    """Recommended items, and what they are based on."""

    items: list[RecommendedItem] = Field(description="Best first.")
    source: Literal["personalized", "segment", "popular", "cached", "static"] = Field(
        description="What the answer is based on."
    )
    reason: str = Field(description="Why the answer has this source.")
    time: Moment = Field(description="The moment that the answer is for.")
    trends_time: Moment | None = Field(description="When item popularity was last counted.")
    feature_time: Moment | None = Field(description="The user's latest known event.")
    model_version: str = Field(description="The model version that answered; empty where none was ever deployed.")
    dataset_version: str = Field(description="The data that the model version was fitted on.")
    segments: list[str] = Field(description="The user's segments.")
    request_id: str = Field(description="The request's own id, or a new one.")
    experiment: str | None = Field(description="The experiment that the user takes part in.")
    bucket: str | None = Field(description="The user's arm of the experiment.")
    cache: Literal["hit", "miss", "shared", "none"] = Field(
        description="Taken from the cache (hit), TorchServe (miss), its answer to another request (shared), or neither."
    )


class ErrorResponse(BaseModel, extra="forbid"):
    """Why a request was refused."""

    code: int = Field(description="The HTTP status.")
    field: str | None = Field(description="The part of the request that is wrong.")
    message: str = Field(description="What is wrong with it.")


class Liveness(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Readiness(BaseModel):
    """Whether every request with a valid key can be answered, from what, and the state of each part."""

    status: Literal["ready", "degraded", "not ready", "draining"] = Field(
        description="Degraded: requests are answered, but not by the model. Draining: the process ends soon."
    )
    sources: list[Literal["model", "cache", "popular", "static"]] = Field(
        description="What answers now; a request takes the first that has an answer for it."
    )
    keys: bool = Field(description="At least one API key exists.")
    torchserve: bool = Field(description="TorchServe answers.")
    store: bool = Field(description="The profile store answers.")
    popular_list: bool = Field(description="TorchServe's popular list is known.")
    static_list: bool = Field(description="The popular list of an exported artifact is known.")
    model_version: str | None


ERRORS = {
    400: "The request is malformed; `field` names what is wrong.",
    401: "There is no API key, or it is unknown, revoked or expired.",
    403: "The API key is for one user, and this is another.",
    429: "The API key sends too many requests or bytes; `message` names the limit, and Retry-After says when to go on.",
    431: "The headers are too long or too many.",
}
BODY_ERRORS = {408: "The body did not arrive in time.", 413: "The body is too long."}


def describe_responses(errors: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    """The responses of an operation, as FastAPI takes them."""
    answer = "Recommendations; `source` and `reason` say what they are based on."
    responses: dict[int | str, dict[str, Any]] = {200: {"model": RecommendationResponse, "description": answer}}
    return responses | {status: {"model": ErrorResponse, "description": text} for status, text in errors.items()}


def describe_operation(reads_body: bool) -> dict[str, Any]:
    """The OpenAPI parts that FastAPI cannot see, since the route reads key, headers and body itself, in this order."""
    parts: dict[str, Any] = {
        "security": [{name: []} for name in SECURITY_SCHEMES],
        "parameters": _parameters("header", RequestHeaders, HEADERS),
    }
    if reads_body:
        schema = {"$ref": SCHEMA_PATH.format(model=RecommendationRequest.__name__)}
        parts["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    else:
        parts["parameters"] += _parameters("query", RecommendationRequest, QUERY_FIELDS)
    return parts


def add_components(description: dict[str, Any]) -> None:
    """Add to an OpenAPI description what `describe_operation` refers to."""
    schema = RecommendationRequest.model_json_schema(ref_template=SCHEMA_PATH)
    schemas = description["components"]["schemas"]
    schemas |= schema.pop("$defs") | {RecommendationRequest.__name__: schema}
    description["components"]["securitySchemes"] = SECURITY_SCHEMES


def _parameters(place: str, model: type[BaseModel], names: Collection[str]) -> list[dict[str, Any]]:
    parameters = []
    for name, schema in model.model_json_schema()["properties"].items():
        if name in names:
            about = {"in": place, "name": name, "required": False, "description": schema.pop("description")}
            # A header or a query string cannot be null.
            parameters.append({**about, "schema": schema["anyOf"][0] if "anyOf" in schema else schema})
    return parameters
