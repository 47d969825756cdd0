"""What the edge writes down: the served log (one JSON line per answer, for lineage), and its own log as JSON lines.

The served log names users by a keyed hash. Nobody waits for the disk, and a full disk costs lines only.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import traceback
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson

from config.command import UserError
from config.redact import redact
from data.files import append_lines, write_bytes
from serving.edge.log_limit import RepeatLimit
from serving.key_file import read_key_file

log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.2
WRITTEN, DROPPED, FAILED = "written", "dropped", "failed"
MIN_SECRET_LENGTH = 16
RECOVERY = (
    "restore it from a backup (docs/runbook.md), or move it and the folder served away: a new secret is made then, and "
    "nobody can find a user's answers in the old log"
)
PUBLIC_INPUT = "trends"  # of the parts of `serving.worker.response.input_digests`: it comes from everybody's events
# Whose history an answer rests on: nobody's, since the worker got nothing of the user; the request's own; the user's in
# the online store; none at all.
WITHHELD, FROM_REQUEST, FROM_STORE, NO_HISTORY = "withheld", "request", "store", "none"


class SecretError(UserError):
    """The secret that hides users is missing, or is too short."""


class LineLog:
    """Up to `max_lines` lines wait in memory for a thread that appends them to one file per day and process.

    Args:
        folder: of the files, NAME-DAY-PID.jsonl; made with `mode`.
        count: called with (outcome, lines): written, dropped (too many waited) or failed (the disk refused them).
    """

    def __init__(
        self, folder: Path, max_lines: int, count: Callable[[str, int], None], name: str = "served", mode: int = 0o777
    ) -> None:
        self._folder, self._max_lines, self._count, self._name, self._mode = folder, max_lines, count, name, mode
        self._waiting: deque[bytes] = deque()
        self._stop = threading.Event()
        self._writing = threading.Lock()
        self._healthy = True
        self._thread = threading.Thread(target=self._run, name=f"{name}-log", daemon=True)
        self._thread.start()

    def append(self, line: bytes) -> None:
        """Write a line, without its line break, soon."""
        if len(self._waiting) >= self._max_lines:
            self._count(DROPPED, 1)
            return
        self._waiting.append(line)

    def close(self) -> None:
        """Write what waits; safe to call twice."""
        self._stop.set()
        self._thread.join()

    def flush(self) -> None:
        """Write what waits now."""
        with self._writing:
            lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
            if not lines:
                return
            try:
                self._folder.mkdir(self._mode, parents=True, exist_ok=True)
                file = self._folder / f"{self._name}-{datetime.now(UTC):%Y-%m-%d}-{os.getpid()}.jsonl"
                append_lines(file, b"".join(line + b"\n" for line in lines), durable=False)
            except OSError as error:
                if self._healthy:  # logged once: a full disk would not gain from a line per attempt
                    log.error("the %s log is not written: %s", self._name, error)
                self._healthy = False
                self._count(FAILED, len(lines))
            else:
                self._healthy = True
                self._count(WRITTEN, len(lines))

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            self.flush()
        self.flush()


def kept_request(worker_body: bytes, request_id: str, time: str) -> bytes:
    """A line for replaying a request that holds more than the served log may; it names no user."""
    body = {name: value for name, value in orjson.loads(worker_body).items() if name != "user_id"}
    return orjson.dumps({"request_id": request_id, "request_time": time, "body": body})


def load_secret(text: str, path: Path) -> bytes:
    """The secret of a text or, where that is empty, of the file, which is made at first use for its owner alone.

    Raises:
        SecretError: it is too short to hide anything, the file is damaged, or it is missing and a served log depends on it.
    """
    if text:
        return derive_secret(text, "TIDEGATE_EDGE_USER_SECRET")
    if not path.exists():
        if any(path.parent.glob("served/served-*.jsonl")):
            raise SecretError(f"{path} is missing, and the served log next to it depends on it; {RECOVERY}")
        write_bytes(path, secrets.token_hex(32).encode(), mode=0o600, replace=False)
    return read_secret(path)


def read_secret(path: Path) -> bytes:
    """The secret of a file. Raises SecretError: it is too short, or the file is damaged or open to others."""
    return derive_secret(read_key_file(path, RECOVERY, SecretError).strip(), path)


def derive_secret(text: str, origin: object) -> bytes:
    """The key of the hashes for a text. Raises SecretError: the text is too short."""
    if len(text) < MIN_SECRET_LENGTH:
        raise SecretError(f"{origin} holds {len(text)} characters; expected at least {MIN_SECRET_LENGTH}")
    return blake2b(text.encode(), digest_size=32).digest()


def pseudonym(secret: bytes, user_id: str) -> str:
    """32 hexadecimal digits: the same for the same user, and no help to find the user without the secret."""
    return blake2b(user_id.encode("utf-8", "surrogatepass"), key=secret, digest_size=16).hexdigest()


def hash_inputs(secret: bytes, inputs: Any) -> dict[str, str] | None:
    """The worker's digests of what it read, as the served log holds them; None where the worker sends none.

    Digests of a person's events are hashed under the secret: a short history could be guessed from its digest.
    """
    if not isinstance(inputs, dict):
        return None
    return {
        name: str(value) if name == PUBLIC_INPUT else pseudonym(secret, f"{name} {value}")
        for name, value in inputs.items()
    }


class JsonLines(logging.Formatter):
    """One JSON object per log record, with nothing of the user or the content of a request.

    Fields: time, level, logger, event; request_id where the record belongs to one request; error and where for an
    exception.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": redact(record.getMessage()),
        }
        if (request_id := getattr(record, "request_id", None)) is not None:
            line["request_id"] = request_id
        if record.exc_info and (error := record.exc_info[1]) is not None:  # not its text: it may quote a client
            frames = traceback.extract_tb(error.__traceback__)
            line["error"] = type(error).__qualname__
            line["where"] = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
        return orjson.dumps(line).decode()


LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"lines": {"()": JsonLines}},
    "filters": {"repeats": {"()": RepeatLimit}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "lines", "filters": ["repeats"]}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
    "loggers": {"serving": {"level": "INFO"}, "uvicorn": {"level": "INFO"}},
}
