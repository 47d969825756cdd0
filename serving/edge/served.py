"""The served log: one JSON line per answer, for lineage. Nobody waits for the disk, and a full one costs lines alone."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

log = logging.getLogger(__name__)

FLUSH_SECONDS = 0.2
WRITTEN, DROPPED, FAILED = "written", "dropped", "failed"


class ServedLog:
    """Lines wait in memory for a thread that appends them to one file a day and process.

    Args:
        folder: of the files, NAME-DAY-PID.jsonl.
        most_lines: that may wait; further ones are dropped, and counted.
        count: told (outcome, lines): written, dropped (the queue was full) or failed (the disk refused them).
        mode: of the folder where it is made.
    """

    def __init__(
        self,
        folder: Path,
        most_lines: int,
        count: Callable[[str, int], None],
        name: str = "served",
        mode: int = 0o777,
    ) -> None:
        self._folder, self._most, self._count, self._name, self._mode = folder, most_lines, count, name, mode
        self._waiting: deque[bytes] = deque()
        self._stop = threading.Event()
        self._writing = threading.Lock()
        self._well = True
        self._thread = threading.Thread(target=self._run, name="served-log", daemon=True)
        self._thread.start()

    def append(self, line: bytes) -> None:
        """Keep a line, without its line break, to be written soon."""
        if len(self._waiting) >= self._most:
            self._count(DROPPED, 1)
            return
        self._waiting.append(line)

    def close(self) -> None:
        """Write what waits; safe to call twice."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(FLUSH_SECONDS):
            self.flush()
        self.flush()

    def flush(self) -> None:
        """Write what waits now."""
        with self._writing:
            self._flush()

    def _flush(self) -> None:
        lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not lines:
            return
        try:
            self._folder.mkdir(self._mode, parents=True, exist_ok=True)
            append(self._file(), b"".join(line + b"\n" for line in lines))
        except OSError as error:
            self._count(FAILED, len(lines))
            if self._well:  # said once: a full disk would not gain from a line per attempt
                log.error("the served log is not written: %s", error)
            self._well = False
            return
        self._well = True
        self._count(WRITTEN, len(lines))

    def _file(self) -> Path:
        return self._folder / f"{self._name}-{datetime.now(UTC):%Y-%m-%d}-{os.getpid()}.jsonl"


def append(path: Path, content: bytes) -> None:
    """Append all of it or, as far as the disk lets us, nothing: half a line would spoil the next one too.

    Raises:
        OSError: the disk is full, or the file is not ours to write.
    """
    with path.open("ab", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        written = 0
        try:
            while written < len(content):
                written += file.write(content[written:])
        except OSError:
            if written:
                file.truncate(before)
            raise
