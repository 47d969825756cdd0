"""Read the served log of the edge: answers by request id, and the requests that were kept next to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from config.command import UserError

SERVED, REQUESTS = "served", "requests"  # file names, as serving.edge writes them
NOT_COMPUTED = "none"  # value of `cache` in a line whose answer the edge gave without a worker
FROM_EDGE = "no worker computed this answer: the edge gave a list that it had"

Line = Mapping[str, Any]


class LineageError(UserError):
    """Something cannot be found or read; the text says where it was searched."""


def read_lines(folder: Path, name: str = SERVED, holding: bytes = b"") -> Iterator[dict[str, Any]]:
    """Every line that contains these bytes, of all files of a folder, by day. Lines that were torn by a crash are skipped."""
    for path in sorted(folder.glob(f"{name}-*.jsonl")):
        try:
            file = path.open("rb")
        except FileNotFoundError:  # it has just expired
            continue
        with file:
            for raw in file:
                if holding in raw:
                    with suppress(orjson.JSONDecodeError):
                        yield orjson.loads(raw)


def find_lines(folder: Path, request_id: str) -> list[dict[str, Any]]:
    """The lines of one request, oldest first. Clients choose request ids, so an id may repeat.

    Raises:
        LineageError: there is none.
    """
    lines = read_lines(folder, holding=orjson.dumps(request_id))
    found = [line for line in lines if line["request_id"] == request_id]
    if not found:
        raise LineageError(
            f"no answer in {folder} has the request id {request_id!r}: --served names another folder, and lines expire "
            "after TIDEGATE_EDGE_RETENTION_DAYS"
        )
    return found


def unlogged_fields(line: Line, folder: Path) -> dict[str, Any]:
    """The fields of a request that its line does not hold.

    Raises:
        LineageError: they were not kept.
    """
    if not line["unlogged_fields"]:
        return {}
    kept = kept_requests(folder, [line])
    if not kept:
        names = " and ".join(line["unlogged_fields"])
        raise LineageError(f"the request has {names}, which is kept only if TIDEGATE_EDGE_KEEP_REQUESTS is true")
    return kept[line["request_id"], line["request_time"]]


def kept_requests(folder: Path, lines: Iterable[Line]) -> dict[tuple[str, str], dict[str, Any]]:
    """(request id, request time) -> the kept request fields of those lines that do not hold all of them."""
    wanted = {(line["request_id"], line["request_time"]) for line in lines if line["unlogged_fields"]}
    requests = read_lines(folder.parent / REQUESTS, REQUESTS)
    by_request = (((one["request_id"], one["request_time"]), one["body"]) for one in requests)
    return {key: body for key, body in by_request if key in wanted}
