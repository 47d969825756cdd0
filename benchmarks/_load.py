"""One measured point: wrk posts requests of varying users to an address for some seconds."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

SCRIPT = Path(__file__).with_suffix(".lua")
SUMMED = ("requests", "seconds", "refused", "other", "broken", "late")
PATIENCE_SECONDS = 5  # an answer that takes longer counts as late, and is not waited for


@dataclass(frozen=True)
class Target:
    """Where to post, and how to tell a good answer.

    Attributes:
        wanted: a text that every good answer holds.
        token: sent as `Authorization: Bearer`.
    """

    url: str
    token: str
    wanted: str


@dataclass(frozen=True)
class Load:
    """What wrk saw.

    Attributes:
        refused: answers whose status was not 200.
        other: answers with status 200 that were not what was asked for.
        broken: connections that failed.
        late: requests without an answer in time.
    """

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    refused: int
    other: int
    broken: int
    late: int

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds

    @property
    def bad(self) -> int:
        """Requests that did not get what they asked for."""
        return self.refused + self.other + self.broken + self.late


def pooled(rounds: Sequence[Load]) -> Load:
    """Rounds of one point as one: counts and seconds add up; of each percentile the median of the rounds'."""
    sums = {name: sum(getattr(one, name) for one in rounds) for name in SUMMED}
    p50, p99 = (median(getattr(one, name) for one in rounds) for name in ("p50_ms", "p99_ms"))
    return Load(**sums, p50_ms=p50, p99_ms=p99)


class LoadError(RuntimeError):
    """wrk ended without figures; the text is what it said."""


def load(target: Target, concurrency: int, seconds: float, users: int, k: int, first: int = 0) -> Load:
    """Keep `concurrency` requests in flight for a while, from one thread, users in turn from number `first` on."""
    command = [
        "wrk",
        *("--threads", "1", "--connections", str(concurrency), "--duration", f"{max(1, round(seconds))}s"),
        *("--timeout", f"{PATIENCE_SECONDS}s", "--script", str(SCRIPT)),
        *_headers({"Authorization": f"Bearer {target.token}", "Content-Type": "application/json"}),
        target.url,
        *("--", str(users), str(first), str(k), target.wanted),
    ]
    ended = subprocess.run(command, capture_output=True, text=True)
    lines = ended.stdout.strip().splitlines()
    if ended.returncode or not lines or not lines[-1].startswith("{"):
        raise LoadError(f"wrk of {target.url} failed: {(ended.stderr or ended.stdout).strip()[-300:]}")
    return Load(**json.loads(lines[-1]))


def _headers(headers: Mapping[str, str]) -> list[str]:
    return [part for name, value in headers.items() for part in ("--header", f"{name}: {value}")]
