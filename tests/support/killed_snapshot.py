"""Kills a process that writes a snapshot before each of its steps in turn, and has another one finish its work.

A step changes the disk: it makes, flushes or renames a file or folder. Arguments: the folder of the log, a folder that
gets one of partitions for each step, and until when to write.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from data.collect.snapshot import write_snapshot
from data.collect.sqlite_log import SqliteLogReader

STEPS = ("mkdir", "fsync", "replace")


def die_before(last: int) -> None:
    """Have this process end, as by kill -9, before the step of this number."""
    count = 0

    def wrap(name: str) -> None:
        original: Callable[..., Any] = getattr(os, name)

        def step(*arguments: Any, **named: Any) -> Any:
            nonlocal count
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            return original(*arguments, **named)

        setattr(os, name, step)

    for name in STEPS:
        wrap(name)


def run(log: Path, partitions: Path, until_us: int, killed_before: int | None = None) -> bool:
    """Write a snapshot in a process of its own; whether it was killed."""
    child = os.fork()
    if not child:
        code = 1
        try:
            if killed_before is not None:
                die_before(killed_before)
            write_snapshot(SqliteLogReader(log), partitions, until_us)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status)
    assert killed or os.waitstatus_to_exitcode(status) == 0
    return killed


def main() -> None:
    log, folder, until_us = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    pa.array([1])  # imports pandas here, not in each process
    step = 0
    while run(log, folder / str(step) / "events", until_us, killed_before=step):
        assert not run(log, folder / str(step) / "events", until_us)
        step += 1


if __name__ == "__main__":
    main()
