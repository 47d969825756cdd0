"""What TorchServe and its workers logged, for error messages that say what went wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path

from serving.settings import Settings

CAUSE = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception)\b")


def load_failure(settings: Settings, since: int) -> str:
    """Why the worker that was last loaded died: the exception's own line; empty where none was logged.

    Args:
        since: what `worker_log_size` said before the load.
    """
    path = _worker_log(settings)
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        stream.seek(since if path.stat().st_size >= since else 0)  # smaller: a new file was begun meanwhile
        logged = stream.read().decode(errors="replace")
    said = [_event(line) for line in logged.splitlines() if '"logger":"MODEL_LOG"' in line]
    causes = [text for text in said if CAUSE.match(text)]
    return causes[-1] if causes else ""


def worker_log_size(settings: Settings) -> int:
    """Bytes that the workers have logged so far."""
    path = _worker_log(settings)
    return path.stat().st_size if path.is_file() else 0


def last_lines(path: Path, count: int = 12) -> str:
    """The end of a log file; empty where there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - 20_000))
        return "\n".join(stream.read().decode(errors="replace").splitlines()[-count:])


def _event(line: str) -> str:
    try:
        return json.loads(line)["event"]
    except ValueError:  # half a line, of a file that was begun meanwhile
        return ""


def _worker_log(settings: Settings) -> Path:
    return settings.server_home / "logs" / "worker.log"
