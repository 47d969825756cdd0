"""The deployment log: what happened to a dataset's serving, one JSON line per event, append-only.

    {"time", "dataset", "event", "from", "to", "reason", "by", "result"}

People read it with `python -m serving.deploy --history`. Nothing is decided by it.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

TAIL_BYTES = 65_536  # the part of the log that is searched for an event before it is written again
JSON_NAMES = {"before": "from", "after": "to"}
FIELD_NAMES = {name: field for field, name in JSON_NAMES.items()}
COLUMNS = ("when (UTC)", "event", "from", "to", "result", "by", "reason")


@dataclass(frozen=True)
class DeploymentEvent:
    """One event; `before` and `after` are versions as TorchServe names them, None if there is none."""

    time: str
    dataset: str
    event: str
    before: str | None
    after: str | None
    reason: str
    by: str
    result: str


def current_user() -> str:
    """The user and the machine, as user@host."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container without this user in its password file
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def append_once(path: Path, event: DeploymentEvent) -> None:
    """Append an event to the log and flush it to disk, unless the log holds it; the caller holds a lock.

    If a process is killed before it writes its line, the next process writes it. An event that only repeats the last
    one, such as a deployment that fails every minute, is written once.
    """
    line = json.dumps(_to_json(event)).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - TAIL_BYTES))
        tail = file.read()
        lines = tail.splitlines()
        if line in lines or (lines and _is_repeated(lines[-1], event)):
            return
        unfinished_line = bool(tail) and not tail.endswith(b"\n")  # its writer was killed
        file.write((b"\n" if unfinished_line else b"") + line + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_events(path: Path, dataset: str) -> list[DeploymentEvent]:
    """Every event of a dataset, oldest first. Lines that cannot be read are left out."""
    if not path.exists():
        return []
    events = (_from_json(line) for line in path.read_bytes().splitlines())
    return [event for event in events if event is not None and event.dataset == dataset]


def render_table(events: Sequence[DeploymentEvent]) -> str:
    """The events as a text table, one line each."""
    rows = [COLUMNS]
    for event in events:
        when = event.time[:19].replace("T", " ")
        rows.append((when, event.event, event.before or "-", event.after or "-", event.result, event.by, event.reason))
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _to_json(event: DeploymentEvent) -> dict:
    return {JSON_NAMES.get(name, name): value for name, value in asdict(event).items()}


def _from_json(line: bytes) -> DeploymentEvent | None:
    try:
        return DeploymentEvent(**{FIELD_NAMES.get(name, name): value for name, value in json.loads(line).items()})
    except (ValueError, TypeError, AttributeError):
        return None


def _is_repeated(last_line: bytes, event: DeploymentEvent) -> bool:
    last = _from_json(last_line)
    return last is not None and _to_json(last) | {"time": ""} == _to_json(event) | {"time": ""}
