"""What happened to a data set's serving, for people: one JSON line an event, appended and never changed.

{"time", "dataset", "what", "from", "to", "why", "by", "result"}
"""

from __future__ import annotations

import getpass
import json
import os
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

TAIL_BYTES = 65_536  # in which an entry is looked for before it is written a second time


@dataclass(frozen=True)
class Entry:
    """One event; `before` and `after` are versions as TorchServe names them, None where there is none."""

    time: str
    dataset: str
    what: str
    before: str | None
    after: str | None
    why: str
    by: str
    result: str


def who() -> str:
    """The person and the machine, as user@host."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # in a container that knows no such user
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def ensure(path: Path, entry: Entry) -> None:
    """Append an entry, on the disk when this returns, unless it is there; the caller holds a lock.

    Whoever is killed after an event and before its line is so made good by the next who comes. An event that only
    repeats the last one, such as a deployment that fails every minute, is told once.
    """
    line = json.dumps(_told(entry)).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - TAIL_BYTES))
        tail = file.read()
        lines = tail.splitlines()
        if line in lines or any(_repeats(one, entry) for one in lines[-1:]):
            return
        torn = b"" if not tail or tail.endswith(b"\n") else b"\n"  # a writer was killed within its line
        file.write(torn + line + b"\n")
        file.flush()
        os.fsync(file.fileno())


def entries(path: Path, dataset: str) -> list[Entry]:
    """Every entry of a data set, oldest first; lines that cannot be read are left out."""
    if not path.exists():
        return []
    found = (_entry(line) for line in path.read_bytes().splitlines())
    return [entry for entry in found if entry is not None and entry.dataset == dataset]


def render(found: list[Entry]) -> str:
    """A line per entry."""
    rows = [("when (UTC)", "what", "from", "to", "result", "by", "why")]
    for one in found:
        when = one.time[:19].replace("T", " ")
        rows.append((when, one.what, one.before or "-", one.after or "-", one.result, one.by, one.why))
    widths = [max(len(row[column]) for row in rows) for column in range(6)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=False)) + f"  {row[6]}" for row in rows
    )


def _told(entry: Entry) -> dict:
    told = asdict(entry)
    return {{"before": "from", "after": "to"}.get(name, name): value for name, value in told.items()}


def _entry(line: bytes) -> Entry | None:
    try:
        told = json.loads(line)
        return Entry(**{{"from": "before", "to": "after"}.get(name, name): value for name, value in told.items()})
    except (ValueError, TypeError, AttributeError):
        return None


def _repeats(line: bytes, entry: Entry) -> bool:
    last = _entry(line)
    return last is not None and _told(last) | {"time": ""} == _told(entry) | {"time": ""}
