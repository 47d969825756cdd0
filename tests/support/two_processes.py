"""Work of two processes that share a fit, without its libraries: they take seconds to import."""

from __future__ import annotations

import os
import time
from collections.abc import Callable


def end_in_the_second(report: Callable[[dict], bool]) -> None:
    """One process dies and the other waits for it."""
    if os.environ["RANK"] == "1":
        os._exit(3)
    time.sleep(600)


def report_and_wait(report: Callable[[dict], bool]) -> None:
    """Both are there until they are ended."""
    report({"epoch": 1})
    time.sleep(600)
