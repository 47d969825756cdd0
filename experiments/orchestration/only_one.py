"""Let one process at a time do what takes hours and shares a workspace; whoever comes second is told at once."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from serving.history import who


class AlreadyRunningError(Exception):
    """Another process does the same; the text says which, by whom and since when."""


@contextmanager
def only_one(path: Path, what: str) -> Iterator[None]:
    """Hold a lock for as long as the block runs. That of a process that was killed is free.

    Args:
        path: of the lock's file, which names its holder.

    Raises:
        AlreadyRunningError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise AlreadyRunningError(f"{what} runs already: {file.read().strip() or 'since a moment ago'}") from None
        file.truncate(0)
        file.write(f"pid {os.getpid()} by {who()}, since {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}\n")
        file.flush()
        yield
