"""How threads wait, and how many cores are idle. config/command.py imports this module, so it runs before torch loads.

OpenMP threads spin while they wait for each other. On cores that other processes use too, each waits for a thread that
is not running: one fit took 584 s instead of 48. Here they sleep.
"""

from __future__ import annotations

import os
import time

# Read once, when torch loads its OpenMP runtime (GNU, or Intel's and LLVM's).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KMP_BLOCKTIME", "0")

CPU_TIMES = "/proc/stat"
IDLE_COLUMNS = (3, 4)  # idle, iowait
GUEST_COLUMN = 8  # from here on counted twice
LEAST_SECONDS = 0.2  # of observation


def _observe() -> tuple[float, float | None]:
    """Now, and the processor seconds since boot of all other processes; None where the system does not say."""
    try:
        with open(CPU_TIMES) as file:
            columns = list(map(int, file.readline().split()[1:]))
    except (OSError, ValueError):
        return time.monotonic(), None
    ticks = sum(value for place, value in enumerate(columns[:GUEST_COLUMN]) if place not in IDLE_COLUMNS)
    return time.monotonic(), ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


_last = _observe()


def free_cores() -> int:
    """How many cores other processes have left idle since the last call (or since this process started), at least 1."""
    global _last
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    time.sleep(max(0.0, LEAST_SECONDS - (time.monotonic() - _last[0])))
    (before, busy_before), (now, busy) = _last, _observe()
    _last = now, busy
    if busy is None or busy_before is None:
        return allowed
    others = (busy - busy_before) / (now - before)
    return max(1, min(allowed, round((os.cpu_count() or 1) - others)))
