"""Read the served log of the edge: answers by request id, and the requests that were kept beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
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


class ServedLines:
    """The lines of all files of a folder, by day. A broken line is skipped and counted.

    Attributes:
        read, broken: the lines read so far, and the broken ones among them.
    """

    def __init__(self, folder: Path, name: str = SERVED) -> None:
        self.folder = folder
        self.files = sorted(folder.glob(f"{name}-*.jsonl"))
        self.read = self.broken = 0

    def each(self, holding: bytes = b"") -> Iterator[dict[str, Any]]:
        """Every line that contains these bytes."""
        self.read = self.broken = 0
        for path in self.files:
            with path.open("rb") as file:
                for raw in file:
                    self.read += 1
                    if not raw.endswith(b"}\n"):  # the process was killed while it wrote
                        self.broken += 1
                    elif holding in raw:
                        yield orjson.loads(raw)

    def find(self, request_id: str) -> list[dict[str, Any]]:
        """The lines of one request, oldest first. Clients choose request ids, so an id may repeat.

        Raises:
            LineageError: there is none.
        """
        quoted = orjson.dumps(request_id)
        found = [line for line in self.each(quoted) if line["request_id"] == request_id]
        if not found:
            raise LineageError(f"no answer has the request id {request_id!r}: {self.describe()}")
        return found

    def describe(self) -> str:
        """Where was searched, and how many lines."""
        if not self.files:
            return f"{self.folder} holds no served log; --served names another folder"
        broken = f", {self.broken} of them broken" if self.broken else ""
        return f"searched {self.read:,} lines in {self.folder}{broken}; --served names another folder"


def unlogged_fields(line: Line, folder: Path) -> dict[str, Any]:
    """The fields of a request that its line does not hold.

    Raises:
        LineageError: they were not kept.
    """
    if not line["unlogged_fields"]:
        return {}
    kept = kept_requests(folder, [line])
    if not kept:
        raise LineageError(
            f"the request has {' and '.join(line['unlogged_fields'])}, which the served log never holds, and "
            f"{folder.parent / REQUESTS} does not hold it either: the edge keeps requests only if "
            "TIDEGATE_EDGE_KEEP_REQUESTS is true"
        )
    return kept[line["request_id"], line["request_time"]]


def kept_requests(folder: Path, lines: Iterable[Line]) -> dict[tuple[str, str], dict[str, Any]]:
    """(request id, request time) -> the kept request fields of those lines that do not hold all of them."""
    wanted = {(line["request_id"], line["request_time"]) for line in lines if line["unlogged_fields"]}
    requests = ServedLines(folder.parent / REQUESTS, REQUESTS).each()
    by_request = (((one["request_id"], one["request_time"]), one["body"]) for one in requests)
    return {key: body for key, body in by_request if key in wanted}
