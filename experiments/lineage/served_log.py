"""The served log, read: one answer by its request id, or all of them. Half a line costs itself alone, and is counted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from config.command import UserError

SERVED, REQUESTS = "served", "requests"  # names of the files, as serving.edge writes them


class LineageError(UserError):
    """A link of a lineage cannot be found or read; the text says where it was looked for."""


class ServedLines:
    """The lines of all files of a folder, in the order of their days.

    Attributes:
        read, broken: lines that were looked at so far, and those among them that are no line of ours.
    """

    def __init__(self, folder: Path, name: str = SERVED) -> None:
        self.folder = folder
        self.files = sorted(folder.glob(f"{name}-*.jsonl"))
        self.read = self.broken = 0

    def each(self, holding: bytes = b"") -> Iterator[dict[str, Any]]:
        """Every line that holds these bytes."""
        self.read = self.broken = 0
        for path in self.files:
            with path.open("rb") as file:
                for raw in file:
                    self.read += 1
                    if holding in raw or not raw.endswith(b"}\n"):
                        yield from self._parsed(raw, holding)

    def find(self, request_id: str) -> list[dict[str, Any]]:
        """The lines of one request, oldest first; ids that clients state may repeat.

        Raises:
            LineageError: there is none; says where it was looked for.
        """
        found = [line for line in self.each(_quoted(request_id)) if line["request_id"] == request_id]
        if not found:
            raise LineageError(f"no answer has the request id {request_id!r}: {self.described()}")
        return found

    def described(self) -> str:
        """Where was looked, and in how much."""
        if not self.files:
            return f"{self.folder} holds no served log; --served names another folder"
        broken = f", {self.broken} of them broken" if self.broken else ""
        return f"looked at {self.read:,} lines in {self.folder}{broken}; --served names another folder"

    def _parsed(self, raw: bytes, holding: bytes) -> Iterator[dict[str, Any]]:
        try:
            line = orjson.loads(raw)
            whole = isinstance(line, dict) and "request_id" in line
        except ValueError:
            whole = False
        if not whole:
            self.broken += 1
        elif holding in raw:
            yield line


def _quoted(text: str) -> bytes:
    try:
        return orjson.dumps(text)
    except TypeError:
        raise LineageError(f"{text!r} is no request id: it is no text that JSON can hold") from None


def unlogged(line: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What a request stated beyond its line in the served log.

    Raises:
        LineageError: it was not kept.
    """
    if "basis" not in line:
        raise LineageError("this line was written before answers could be replayed: it does not say what was asked")
    if not line["unlogged"]:
        return {}
    kept = bodies(folder, [line])
    if not kept:
        stated = " and ".join(line["unlogged"])
        raise LineageError(
            f"the request stated {stated}, which no line of the served log holds, and {folder.parent / REQUESTS} does "
            "not hold it either: the edge keeps requests only where TIDEGATE_EDGE_KEEP_REQUESTS is true"
        )
    return kept[line["request_id"], line["asked"]]


def bodies(folder: Path, lines: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """(request id, asked) -> what the request stated, of those lines that do not hold all of it, where it was kept."""
    wanted = {(line["request_id"], line["asked"]) for line in lines if line.get("unlogged")}
    kept = ServedLines(folder.parent / REQUESTS, REQUESTS)
    each = (((one["request_id"], one["asked"]), one["body"]) for one in kept.each())
    return {name: body for name, body in each if name in wanted}


def given_before(line: Mapping[str, Any], folder: Path) -> str:
    """Why an answer that repeats an earlier one is not computed, and which one to ask for."""
    lines = ServedLines(folder).each()
    same = [one for one in lines if (one["user"], one["time"]) == (line["user"], line["time"])]
    first = next((one["request_id"] for one in same if one["rung"] != "cached"), None)
    where = f"replay {first!r}" if first else f"its own line is not in {folder}"
    return f"this answer repeats the user's answer of {line['time']}, since nothing could be computed; {where}"
