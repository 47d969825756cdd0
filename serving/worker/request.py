"""The body of a recommendation request: its fields, their bounds, and the check that the worker and the edge share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema

from config.validation import error_message
from data.columns import ITEM, USER
from data.ids import MAX_LENGTH, VALID_PATTERN, canonical_id
from data.times import from_iso

MAX_K = 1000
MAX_HISTORY = 10_000
DEFAULT_K = 10
MAX_FILTER_VALUES = 100
MIN_NUMBER, MAX_NUMBER = -(2**63), 2**63 - 1  # JSON writers refuse larger integers
MAX_SENTENCES = 5  # errors that one message lists
MAX_FIELD_LENGTH = 100  # of a name that an error repeats
SENTENCES = {
    "extra_forbidden": "is not a known field",
    "model_type": "expected a JSON object",
    "string_pattern_mismatch": "expected text that is not blank, without control characters",
}


class RequestError(ValueError):
    """A request cannot be answered; `field` names what is wrong with it."""

    def __init__(self, field: str, message: str) -> None:
        self.field, self.message = field[:MAX_FIELD_LENGTH], message
        super().__init__(f"{self.field}: {message}")


def _parse_time(value: Any) -> int:
    """An ISO 8601 text as microseconds since 1970; without an offset it is UTC."""
    if not isinstance(value, str):
        raise ValueError("expected an ISO 8601 time")
    try:
        return from_iso(value)
    except ValueError:
        raise ValueError(f"{value[:40]!r} is not an ISO 8601 time") from None


def _integral_float_to_int(value: Any) -> Any:
    """10.0 as 10: JSON Schema counts it as an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check_scalar(value: Any) -> Any:
    is_number = isinstance(value, int | float)
    if isinstance(value, dict | list) or (is_number and not MIN_NUMBER <= value <= MAX_NUMBER):
        raise ValueError("expected text, a number within 64 bits, true, false or null")
    if isinstance(value, str):
        value.encode()  # a ValueError for half a surrogate pair, which JSON writers refuse
    return value


def _wrap_text(value: Any) -> Any:
    if not isinstance(value, str | list):
        raise ValueError("expected text or a list of texts")
    return [value] if isinstance(value, str) else value


Time = Annotated[int, BeforeValidator(_parse_time), WithJsonSchema({"type": "string", "format": "date-time"})]
Id = Annotated[str, Field(max_length=MAX_LENGTH, pattern=VALID_PATTERN)]
Scalar = Annotated[
    Any,
    AfterValidator(_check_scalar),
    WithJsonSchema({"type": ["string", "number", "boolean", "null"], "minimum": MIN_NUMBER, "maximum": MAX_NUMBER}),
]
SomeTexts = Annotated[list[str], Field(min_length=1, max_length=MAX_FILTER_VALUES)]
FilterValues = Annotated[SomeTexts, BeforeValidator(_wrap_text, json_schema_input_type=str | SomeTexts)]


class HistoryEvent(BaseModel):
    """Something that the user did; it may have more fields."""

    model_config = ConfigDict(strict=True)

    item_id: Id = Field(description="The item.")
    event_time: Time = Field(description="When, ISO 8601; without an offset UTC.")


class RecommendationRequest(BaseModel):
    """What to recommend, and to which user. Every field is optional."""

    model_config = ConfigDict(extra="forbid", strict=True)

    user_id: Id | None = Field(None, description="The user to recommend to.")
    history: Annotated[list[HistoryEvent], Field(max_length=MAX_HISTORY, fail_fast=True)] | None = Field(
        None, description="What the user did, in any order; it replaces the stored history."
    )
    k: Annotated[int, Field(ge=1, le=MAX_K), BeforeValidator(_integral_float_to_int)] = Field(
        DEFAULT_K, description="The number of items."
    )
    time: Time | None = Field(
        None, description="The moment to recommend for, ISO 8601; without an offset UTC. Default: now."
    )
    context: dict[str, Scalar] | None = Field(None, description="Traits of the user and of the moment, by name.")
    exclude: Annotated[list[Id], Field(fail_fast=True)] | None = Field(None, description="Items not to recommend.")
    filters: dict[str, FilterValues] | None = Field(
        None, description="Item attribute -> accepted values; an item must match every attribute."
    )
    request_id: Annotated[str, Field(max_length=MAX_LENGTH)] | None = Field(
        None, description="Returned with the answer and logged: put nothing personal in it."
    )


@dataclass
class Request:
    """One checked request."""

    user_id: str | None
    history: list[tuple[str, int]]  # (item_id, microseconds), in the request's order
    has_history: bool  # an empty one counts
    k: int
    time_us: int
    context: dict
    request_id: str | None
    exclude: list[str] = field(default_factory=list)
    filters: dict[str, list[str]] = field(default_factory=dict)  # item attribute -> accepted values


def parse(body: object, now_us: int, numeric_ids: Collection[str] = ()) -> Request:
    """Check one parsed JSON body, and bring its ids to their one spelling.

    Args:
        now_us: the time of a request without one.
        numeric_ids: those of user_id and item_id that are numbers in the dataset; see `data.ids`.

    Raises:
        RequestError: names the first wrong field; the message lists further ones.
    """
    try:
        checked = RecommendationRequest.model_validate(body)
    except ValidationError as error:
        raise _request_error(error) from None
    user_id, items_are_numeric = checked.user_id, ITEM in numeric_ids
    return Request(
        user_id=None if user_id is None else canonical_id(user_id, USER in numeric_ids),
        history=[(canonical_id(event.item_id, items_are_numeric), event.event_time) for event in checked.history or ()],
        has_history=checked.history is not None,
        k=checked.k,
        time_us=now_us if checked.time is None else checked.time,
        context=checked.context or {},
        request_id=checked.request_id,
        exclude=[canonical_id(item, items_are_numeric) for item in checked.exclude or ()],
        filters=checked.filters or {},
    )


def _request_error(error: ValidationError) -> RequestError:
    first, *others = error.errors(include_url=False)[:MAX_SENTENCES]
    further = [f"{_field_path(fault['loc'])} {_sentence(fault)}" for fault in others]
    return RequestError(_field_path(first["loc"]), "; ".join([_sentence(first), *further]))


def _field_path(location: tuple[int | str, ...]) -> str:
    """("history", 0, "item_id") as history[0].item_id."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    readable = path.encode("utf-8", "backslashreplace").decode()  # half a surrogate pair cannot be sent back
    return readable.removeprefix(".")[:MAX_FIELD_LENGTH] or "body"


def _sentence(fault: Mapping[str, Any]) -> str:
    if fault["type"] == "missing":  # of an event; its unknown names may be misspelled
        unknown = [str(name) for name in fault["input"] if name not in HistoryEvent.model_fields]
        return f"is required; unknown field {', '.join(unknown)[:MAX_FIELD_LENGTH]}" if unknown else "is required"
    return SENTENCES.get(fault["type"]) or error_message(fault)
