"""What was seen of a version on trial and of the one beside it: counts that processes keep apart and that sum."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from serving import whole

GROWTH = 1.05  # of a bucket of times to the next: a p99 is known to 5%
LEAST = 1e-4  # seconds, where the first bucket ends


@dataclass
class Side:
    """Calls of one version, how many of them failed, and how long they took: bucket -> calls."""

    calls: int = 0
    errors: int = 0
    times: Counter[int] = field(default_factory=Counter)

    def saw(self, failed: bool, seconds: float) -> None:
        self.calls += 1
        self.errors += failed
        self.times[bucket(seconds)] += 1

    @property
    def error_rate(self) -> float:
        return self.errors / self.calls if self.calls else 0.0

    def p99(self) -> float:
        """Seconds within which 99% of the calls ended, as the upper end of their bucket; 0 without any."""
        left = math.ceil(0.99 * self.calls)
        for place in sorted(self.times):
            left -= self.times[place]
            if left <= 0:
                return LEAST * GROWTH**place
        return 0.0

    def slower(self, seconds: float) -> int:
        """Calls that surely took longer."""
        return sum(calls for place, calls in self.times.items() if LEAST * GROWTH ** (place - 1) >= seconds)

    def add(self, other: Side) -> None:
        self.calls += other.calls
        self.errors += other.errors
        self.times.update(other.times)


@dataclass
class Evidence:
    """Of one step of a trial.

    Attributes:
        compared: requests that both versions answered.
        overlap: sum over them of the share of the champion's list that the candidate lists too.
        first_changed: of them, those whose first item differs.
    """

    champion: Side = field(default_factory=Side)
    candidate: Side = field(default_factory=Side)
    compared: int = 0
    overlap: float = 0.0
    first_changed: int = 0

    @property
    def mean_overlap(self) -> float:
        return self.overlap / self.compared if self.compared else 1.0

    def compare(self, champion: list[str], candidate: list[str]) -> None:
        """Count two lists given to the same request. Where the champion lists nothing, there is nothing to compare."""
        if champion:
            self.compared += 1
            self.overlap += len(set(champion) & set(candidate)) / len(champion)
            self.first_changed += champion[0] != (candidate[0] if candidate else None)

    def add(self, other: Evidence) -> None:
        self.champion.add(other.champion)
        self.candidate.add(other.candidate)
        self.compared += other.compared
        self.overlap += other.overlap
        self.first_changed += other.first_changed


def bucket(seconds: float) -> int:
    return 0 if seconds <= LEAST else math.ceil(math.log(seconds / LEAST, GROWTH))


def folder(place: Path) -> Path:
    """Where the processes of the edge put what they saw, beside the stage's file."""
    return place.with_suffix(".evidence")


def write(path: Path, step: str, seen: Evidence) -> None:
    """Keep one process's counts of a step; whole or not at all."""
    whole.write(path, json.dumps({"step": step, **vars(seen)}, default=vars).encode())


def total(place: Path, step: str) -> Evidence:
    """The sum of what all processes saw in a step, those that ended included."""
    found = Evidence()
    for path in folder(place).glob("*.json"):
        told = _read(path)
        if told.pop("step", None) == step:
            found.add(_evidence(told))
    return found


def forget(place: Path, step: str) -> None:
    """Remove what was seen in other steps."""
    for path in folder(place).glob("*.json"):
        if _read(path).get("step") != step:
            path.unlink(missing_ok=True)


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _evidence(told: dict) -> Evidence:
    return Evidence(**(told | {name: _side(told[name]) for name in ("champion", "candidate")}))


def _side(told: dict) -> Side:
    return Side(told["calls"], told["errors"], Counter({int(place): calls for place, calls in told["times"].items()}))
