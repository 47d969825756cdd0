"""What TorchServe is told of a request, and what of that the served log does not hold."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from serving.edge.errors import Refusal
from serving.worker.request import Request

IMPERSONAL = ("exclude", "filters", "k", "time")  # what of a request says nothing of its user
UNLOGGED = ("context", "exclude", "filters", "history")  # may say much of a user, so no line of the served log has it
WITHHELD, STATED, STORED, NOBODY = "withheld", "stated", "stored", "nobody"


class Wire(NamedTuple):
    """Attributes:
    body: JSON for the worker, never with an id that would tell requests apart.
    basis: whose history the answer rests on: withheld (the worker was told nothing of the user), stated (the
        request's own), stored (that of the user in the online store) or nobody.
    unlogged: the fields in it that the served log does not hold; a replay needs them.
    """

    body: bytes
    basis: str
    unlogged: tuple[str, ...]


NOTHING = Wire(b"{}", WITHHELD, ())


def wire_of(stated: dict[str, Any], request: Request, withheld: bool, known: dict[str, Any] | None) -> Wire:
    """Without consent nothing of the user.

    Args:
        stated: the request's body.
        known: history and context of the user, where the worker cannot look them up.

    Raises:
        Refusal: JSON reads deeper than it writes.
    """
    if withheld:
        told = {name: stated[name] for name in IMPERSONAL if name in stated} | {"history": []}
    else:
        told = {name: value for name, value in stated.items() if name != "request_id"}
        if known is not None and not request.has_history:
            told |= known | {"context": known["context"] | request.context}
    try:
        body = orjson.dumps(told, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:
        raise Refusal(400, "body", f"cannot be passed on: {error}") from None
    return Wire(body, _basis(request, withheld), tuple(name for name in UNLOGGED if told.get(name)))


def kept(wire: Wire, request_id: str, asked: str) -> bytes:
    """A line for whoever wants to replay a request that states more than the served log holds; names no user."""
    told = {name: value for name, value in orjson.loads(wire.body).items() if name != "user_id"}
    return orjson.dumps({"request_id": request_id, "asked": asked, "body": told})


def _basis(request: Request, withheld: bool) -> str:
    if withheld:
        return WITHHELD
    if request.has_history:
        return STATED
    return NOBODY if request.user_id is None else STORED
