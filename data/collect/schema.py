"""The event schema, version 1: the types of events, and for each field its privacy class, purposes and retention.

This is the one definition: what is stored is checked against it, the published JSON Schema and the event reference are
made from it (`json_schema`). An event is one thing that one person did, or one report of what a person is. Times are
microseconds since 1970 in UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from data.consent import PURPOSES as CONSENT_PURPOSES

VERSION: Literal[1] = 1
MAX_ID, MAX_TEXT, MAX_TRAITS, MAX_DESCRIPTION = 200, 1_000, 100, 10_000
MIN_TIME, MAX_TIME = -62_135_596_800_000_000, 253_402_300_799_999_999  # years 1 to 9999, in microseconds
MAX_NUMBER = 1e18  # keeps infinity out, which JSON cannot say
ANALYTICS = "analytics"
PURPOSES = (ANALYTICS, *CONSENT_PURPOSES)  # that an event may serve
RETENTION_DAYS, SEARCH_DAYS, PLACE_DAYS = 395, 90, 30  # 395: a year can be compared with the year before
Scalar = str | int | float | bool | None


class Privacy(StrEnum):
    """How a field relates to a person."""

    IDENTIFIER = "identifier"  # names a person, a device or a visit
    BEHAVIOR = "behavior"  # what a person did
    TRAIT = "trait"  # what a person is
    CONTEXT = "context"  # where, and with what
    TECHNICAL = "technical"  # nothing about a person


def _field(
    privacy: Privacy, text: str, purposes: tuple[str, ...] = PURPOSES, days: int = RETENTION_DAYS, **limits: Any
) -> Meta:
    """What the schema says of a field, and its limits as `msgspec.Meta` takes them."""
    about = {"x-privacy": str(privacy), "x-purposes": list(purposes), "x-retention-days": days}
    return Meta(description=text, extra_json_schema=about, **limits)


def _id(privacy: Privacy, text: str) -> Meta:
    return _field(privacy, text, min_length=1, max_length=MAX_ID)


def _text(privacy: Privacy, text: str, **more: Any) -> Meta:
    return _field(privacy, text, max_length=MAX_TEXT, **more)


class Context(Struct, omit_defaults=True, frozen=True):
    """Where and with what it happened."""

    device: (
        Annotated[Literal["phone", "tablet", "desktop", "tv", "other"], _field(Privacy.CONTEXT, "Kind of device.")]
        | None
    ) = None
    os: Annotated[str, _text(Privacy.CONTEXT, "Operating system.")] | None = None
    app: Annotated[str, _text(Privacy.TECHNICAL, "App or site, with its version.")] | None = None
    network: (
        Annotated[Literal["wifi", "cellular", "wired", "offline"], _field(Privacy.CONTEXT, "Kind of network.")] | None
    ) = None
    orientation: (
        Annotated[Literal["portrait", "landscape"], _field(Privacy.CONTEXT, "Orientation of the screen.")] | None
    ) = None
    local_time: (
        Annotated[str, _field(Privacy.CONTEXT, "Local time as HH:MM.", pattern="^([01][0-9]|2[0-3]):[0-5][0-9]$")]
        | None
    ) = None
    locale: Annotated[str, _text(Privacy.CONTEXT, "Language and region, as in en-US.")] | None = None
    country: (
        Annotated[str, _field(Privacy.CONTEXT, "Country, ISO 3166-1.", days=PLACE_DAYS, pattern="^[A-Z]{2}$")] | None
    ) = None
    city: Annotated[str, _text(Privacy.CONTEXT, "City.", days=PLACE_DAYS)] | None = None
    page: Annotated[str, _text(Privacy.BEHAVIOR, "Path of the page or name of the screen, without query.")] | None = (
        None
    )
    campaign: Annotated[str, _text(Privacy.CONTEXT, "Campaign that led here.", purposes=(ANALYTICS,))] | None = None


class Event(Struct, kw_only=True, omit_defaults=True, frozen=True, tag_field="type"):
    """What every event has. Unless it is about the catalog, it names a person: by `user_id`, `anonymous_id`
    or both."""

    version: Annotated[Literal[1], _field(Privacy.TECHNICAL, "Version of this schema.")] = VERSION
    event_id: Annotated[str, _id(Privacy.TECHNICAL, "The message's id; with #2, #3 ... for its further items.")]
    event_time: Annotated[int, _field(Privacy.BEHAVIOR, "When it happened, in microseconds since 1970.")]
    user_id: Annotated[str, _id(Privacy.IDENTIFIER, "The person's account.")] | None = None
    anonymous_id: Annotated[str, _id(Privacy.IDENTIFIER, "The browser or device, before and after login.")] | None = (
        None
    )
    session_id: Annotated[str, _id(Privacy.IDENTIFIER, "The visit.")] | None = None
    context: Context | None = None
    purposes: Annotated[
        tuple[Literal["analytics", "personalization", "model_training"], ...],
        _field(Privacy.TECHNICAL, "Purposes that the event may serve."),
    ] = ()


class ItemEvent(Event, kw_only=True, omit_defaults=True, frozen=True):
    """What a person did with one item."""

    item_id: Annotated[str, _id(Privacy.BEHAVIOR, "The item, as the catalog names it.")]
    request_id: Annotated[str, _id(Privacy.TECHNICAL, "The recommendation answer that listed the item.")] | None = None
    position: Annotated[int, _field(Privacy.BEHAVIOR, "Place in the list.", ge=0, le=10_000)] | None = None


class View(ItemEvent, tag="view", frozen=True):
    """The person looked at the item's page."""


class Click(ItemEvent, tag="click", frozen=True):
    """The person clicked the item in a list."""


class Impression(ItemEvent, tag="impression", frozen=True):
    """The item was shown in a list. `position` and the answer's `request_id` say where."""


class Play(ItemEvent, tag="play", kw_only=True, omit_defaults=True, frozen=True):
    """The person played the item."""

    progress: Annotated[float, _field(Privacy.BEHAVIOR, "Share that was played.", ge=0, le=1)] | None = None
    seconds: Annotated[float, _field(Privacy.BEHAVIOR, "Time played.", ge=0, le=604_800)] | None = None


class Dwell(ItemEvent, tag="dwell", kw_only=True, frozen=True):
    """How long the person stayed with the item."""

    seconds: Annotated[float, _field(Privacy.BEHAVIOR, "Time visible and active.", ge=0, le=604_800)]


class Scroll(ItemEvent, tag="scroll", kw_only=True, frozen=True):
    """How far down the item's page the person scrolled."""

    depth: Annotated[float, _field(Privacy.BEHAVIOR, "Share of the page.", ge=0, le=1)]


class Add(ItemEvent, tag="add", kw_only=True, omit_defaults=True, frozen=True):
    """The person put the item into a cart or list."""

    quantity: Annotated[float, _field(Privacy.BEHAVIOR, "Number of pieces.", gt=0, le=MAX_NUMBER)] | None = None


class Purchase(ItemEvent, tag="purchase", kw_only=True, omit_defaults=True, frozen=True):
    """The person bought the item."""

    quantity: Annotated[float, _field(Privacy.BEHAVIOR, "Number of pieces.", gt=0, le=MAX_NUMBER)] | None = None
    price: Annotated[float, _field(Privacy.BEHAVIOR, "Price of one piece.", ge=0, le=MAX_NUMBER)] | None = None
    currency: Annotated[str, _field(Privacy.BEHAVIOR, "Currency, ISO 4217.", pattern=r"^[A-Z]{3}$(?!\n)")] | None = None
    order_id: Annotated[str, _id(Privacy.IDENTIFIER, "The order.")] | None = None


class Rating(ItemEvent, tag="rating", kw_only=True, frozen=True):
    """The person rated the item."""

    value: Annotated[float, _field(Privacy.BEHAVIOR, "The rating.", ge=-MAX_NUMBER, le=MAX_NUMBER)]


class Share(ItemEvent, tag="share", kw_only=True, omit_defaults=True, frozen=True):
    """The person shared the item."""

    channel: Annotated[str, _text(Privacy.BEHAVIOR, "Where it was shared.")] | None = None


class Search(Event, tag="search", kw_only=True, frozen=True):
    """The person searched."""

    query: Annotated[str, _text(Privacy.BEHAVIOR, "What was searched for.", days=SEARCH_DAYS)]


class Page(Event, tag="page", kw_only=True, omit_defaults=True, frozen=True):
    """The person opened a page or a screen; `context.page` names it."""

    name: Annotated[str, _text(Privacy.BEHAVIOR, "Name of the page or screen.")] | None = None


class Identify(Event, tag="identify", kw_only=True, omit_defaults=True, frozen=True):
    """What a person is. With both ids it says that account and device are one person."""

    traits: Annotated[dict[str, Scalar], _field(Privacy.TRAIT, "Attributes of the person.", max_length=MAX_TRAITS)] = {}


class Alias(Event, tag="alias", kw_only=True, frozen=True):
    """Two ids are one person."""

    previous_id: Annotated[str, _id(Privacy.IDENTIFIER, "The other id.")]


class Group(Event, tag="group", kw_only=True, omit_defaults=True, frozen=True):
    """The person belongs to a group, such as a household or a company."""

    group_id: Annotated[str, _id(Privacy.IDENTIFIER, "The group.")]
    traits: Annotated[dict[str, Scalar], _field(Privacy.TRAIT, "Attributes of the group.", max_length=MAX_TRAITS)] = {}


class Item(Event, tag="item", kw_only=True, omit_defaults=True, frozen=True):
    """What the catalog says of an item since `event_time`. It names no person; attributes that it leaves out stay."""

    item_id: Annotated[str, _id(Privacy.TECHNICAL, "The item, as the catalog names it.")]
    title: Annotated[str, _text(Privacy.TECHNICAL, "Title.")] | None = None
    genres: Annotated[tuple[str, ...], _field(Privacy.TECHNICAL, "Genres.", max_length=MAX_TRAITS)] | None = None
    description: Annotated[str, _field(Privacy.TECHNICAL, "Description.", max_length=MAX_DESCRIPTION)] | None = None
    release_time: (
        Annotated[
            int,
            _field(Privacy.TECHNICAL, "When it came out, in microseconds since 1970.", ge=MIN_TIME, le=MAX_TIME),
        ]
        | None
    ) = None
    traits: Annotated[
        dict[str, Scalar], _field(Privacy.TECHNICAL, "Further attributes of the item.", max_length=MAX_TRAITS)
    ] = {}


class Custom(Event, tag="custom", kw_only=True, frozen=True):
    """An event that the mapping does not know. Its name is kept, its properties are not."""

    name: Annotated[str, _text(Privacy.BEHAVIOR, "Name of the event.", purposes=(ANALYTICS,))]


AnyEvent = (
    View | Click | Impression | Play | Dwell | Scroll | Add | Purchase | Rating | Share
    | Search | Page | Identify | Alias | Group | Item | Custom
)  # fmt: skip
EVENT_TYPES: dict[str, type[Event]] = {str(cls.__struct_config__.tag): cls for cls in AnyEvent.__args__}
ITEM_TYPES = {name for name, cls in EVENT_TYPES.items() if issubclass(cls, ItemEvent)}


_DECODER = msgspec.json.Decoder(list[AnyEvent])


def decode_events(content: bytes) -> Sequence[Event]:
    """The events of a message in the log. Raises msgspec.MsgspecError: the content is damaged."""
    return _DECODER.decode(content)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of every event; fields have `x-privacy`, `x-purposes` and `x-retention-days`."""
    schema = msgspec.json.schema(AnyEvent)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Tidegate event, version {VERSION}",
        **schema,
    }
