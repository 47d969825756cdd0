"""What the edge writes down of requests: the served log (one JSON line per answer, for lineage), and kept requests.

The served log names users by a keyed hash (see user_keys.py). Files expire. Nobody waits for the disk, and a full disk costs lines only.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson

from config.files import append_lines

log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.2
WRITTEN, DROPPED, FAILED = "written", "dropped", "failed"
LARGEST_FILE = 64_000_000
HOUSEKEEPING_SECONDS = 600
PUBLIC_INPUT = "trends"  # of the parts of `serving.worker.response.input_digests`: it comes from everybody's events
# Whose history an answer rests on: nobody's, since the worker got nothing of the user; the request's own; the user's in
# the online store; none at all.
WITHHELD, FROM_REQUEST, FROM_STORE, NO_HISTORY = "withheld", "request", "store", "none"


@dataclass(frozen=True)
class Retention:
    """How long logs are kept, and how much of the disk the files of each of them may take."""

    days: int
    max_bytes: int

    @property
    def file_bytes(self) -> int:
        """The size at which a file is followed by a new one: an eighth of a log can be removed at a time."""
        return min(LARGEST_FILE, self.max_bytes // 8)

    def remove_expired(self, folder: Path, name: str, today: date) -> None:
        """Remove files of days before the kept ones, then the oldest ones of a log that is too large."""
        oldest = f"{name}-{today - timedelta(self.days)}"
        kept = []
        for file in folder.glob(f"{name}-*.jsonl"):
            with suppress(OSError):  # another process has just removed it
                if file.name < oldest:
                    file.unlink()
                else:
                    kept.append((file.stat().st_mtime, file.stat().st_size, file))
        excess = sum(size for _, size, _ in kept) - self.max_bytes
        for _, size, file in sorted(kept):
            if excess <= 0:
                break
            with suppress(OSError):
                file.unlink()
                excess -= size
                log.warning("%s was removed before its %d days: the %s log was too large", file.name, self.days, name)


class LineLog:
    """Up to `max_lines` lines wait in memory for a thread that appends them to files of one day and process.

    Args:
        folder: of the files, NAME-DAY-PID-NUMBER.jsonl; made with `mode`.
        count: called with (outcome, lines): written, dropped (too many waited) or failed (the disk refused them).
        file_bytes: a file of at least this size is followed by the next number.
        housekeeping: called by the thread at its start, when a file is full, and every 10 minutes.
    """

    def __init__(
        self,
        folder: Path,
        max_lines: int,
        count: Callable[[str, int], None],
        name: str = "served",
        mode: int = 0o777,
        file_bytes: int = LARGEST_FILE,
        housekeeping: Callable[[], None] = lambda: None,
    ) -> None:
        self._folder, self._max_lines, self._count, self._name, self._mode = folder, max_lines, count, name, mode
        self._file_bytes, self._housekeeping, self._clean_at = file_bytes, housekeeping, 0.0
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
                append_lines(self._file(), b"".join(line + b"\n" for line in lines), durable=False)
            except OSError as error:
                if self._healthy:  # logged once: a full disk would not gain from a line per attempt
                    log.error("the %s log is not written: %s", self._name, error)
                self._healthy = False
                self._count(FAILED, len(lines))
            else:
                self._healthy = True
                self._count(WRITTEN, len(lines))

    def _file(self) -> Path:
        """The file to write: today's newest of this process, or the one after it if that is full."""
        stem = f"{self._name}-{datetime.now(UTC):%Y-%m-%d}-{os.getpid()}"
        file = max(self._folder.glob(f"{stem}-*.jsonl"), default=self._folder / f"{stem}-0001.jsonl")
        if not file.exists() or file.stat().st_size < self._file_bytes:
            return file
        self._clean_at = 0.0
        return self._folder / f"{stem}-{int(file.stem.rpartition('-')[2]) + 1:04}.jsonl"

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            self.flush()
            if time.monotonic() >= self._clean_at:
                self._clean_at = time.monotonic() + HOUSEKEEPING_SECONDS
                try:
                    self._housekeeping()
                except Exception:  # this thread must go on writing
                    log.exception("the housekeeping of the %s log failed", self._name)
        self.flush()


def kept_request(worker_body: bytes, request_id: str, time: str) -> bytes:
    """A line for replaying a request that holds more than the served log may; it names no user."""
    body = {name: value for name, value in orjson.loads(worker_body).items() if name != "user_id"}
    return orjson.dumps({"request_id": request_id, "request_time": time, "body": body})


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
