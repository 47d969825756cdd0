"""What was seen of a version on trial and of the one beside it: counts that processes keep apart and that sum."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from config.params import Rollout
from data import files

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
    files.write_bytes(path, json.dumps({"step": step, **vars(seen)}, default=vars).encode())


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


FIRST_LOOK, LOOK_GROWTH = 8, 1.25
LIMITS = 3
SLOW = 0.01  # of the calls take longer than the p99
NOTHING = 1e-18


def look(seen: Evidence) -> int:
    """How many looks such an amount of evidence allows; 0: none yet."""
    amount = seen.candidate.calls + seen.compared
    return 0 if amount < FIRST_LOOK else 1 + int(math.log(amount / FIRST_LOOK, LOOK_GROWTH))


def passed(seen: Evidence, plan: Rollout) -> str | None:
    """Which limit was passed beyond doubt, in words with its figures; None: none."""
    nth = max(1, look(seen))
    level = plan.limits.alpha * 6 / (math.pi * nth) ** 2 / LIMITS
    tests = ((_errors, _more_errors), (_p99, _slower), (_overlap, _fewer_in_common))
    return next((told(seen) for told, test in tests if test(seen, plan, level)), None)


def doubtful(seen: Evidence, plan: Rollout) -> str | None:
    """Which limit the figures lie beyond as they stand, proven or not: no reason to go back, none to go on."""
    limits = plan.limits
    if seen.candidate.error_rate - seen.champion.error_rate > limits.error_excess:
        return _errors(seen)
    if _late(seen, plan) > SLOW * seen.candidate.calls + 1:  # a call more than the p99 itself allows
        return _p99(seen)
    return _overlap(seen) if seen.mean_overlap < limits.overlap else None


def figures(seen: Evidence) -> str:
    """All three in a line."""
    return "; ".join(told(seen) for told in (_errors, _p99, _overlap))


def fisher(errors: int, calls: int, other_errors: int, other_calls: int) -> float:
    """P(at least so many of all errors fall on the first side by chance): one-sided p-value."""
    total, marked = calls + other_calls, errors + other_errors
    all_ways = _log_choose(total, calls)
    ways = (
        _log_choose(marked, hits) + _log_choose(total - marked, calls - hits) - all_ways
        for hits in range(errors, min(calls, marked) + 1)
        if calls - hits <= total - marked
    )
    return min(1.0, math.fsum(map(math.exp, ways)))


def binomial_tail(hits: int, trials: int, share: float) -> float:
    """P(X >= hits) of a binomial count."""
    tail = 0.0
    for n in range(hits, trials + 1):
        term = math.exp(_log_choose(trials, n) + n * math.log(share) + (trials - n) * math.log1p(-share))
        tail += term
        if n > share * trials and term < NOTHING:  # terms only fall from here on
            break
    return min(1.0, tail)


def _more_errors(seen: Evidence, plan: Rollout, level: float) -> bool:
    ours, theirs = seen.candidate, seen.champion
    if ours.error_rate - theirs.error_rate <= plan.limits.error_excess:
        return False
    return fisher(ours.errors, ours.calls, theirs.errors, theirs.calls) <= level


def _slower(seen: Evidence, plan: Rollout, level: float) -> bool:
    if min(seen.candidate.calls, seen.champion.calls) < plan.min_requests:
        return False
    return binomial_tail(_late(seen, plan), seen.candidate.calls, SLOW) <= level


def _fewer_in_common(seen: Evidence, plan: Rollout, level: float) -> bool:
    if not seen.compared:
        return False
    doubt = math.sqrt(-math.log(level) / (2 * seen.compared))
    return seen.mean_overlap + doubt < plan.limits.overlap


def _late(seen: Evidence, plan: Rollout) -> int:
    """The candidate's calls that took longer than the champion's p99 allows."""
    return seen.candidate.slower(plan.limits.p99_ratio * seen.champion.p99()) if seen.champion.calls else 0


def _errors(seen: Evidence) -> str:
    ours, theirs = seen.candidate, seen.champion
    return f"errors {ours.errors} of {ours.calls}, against {theirs.errors} of {theirs.calls}"


def _p99(seen: Evidence) -> str:
    return f"p99 {seen.candidate.p99() * 1000:.1f} ms, against {seen.champion.p99() * 1000:.1f} ms"


def _overlap(seen: Evidence) -> str:
    return f"overlap {seen.mean_overlap:.2f}, and {seen.first_changed} other first items, of {seen.compared} compared"


def _log_choose(total: int, chosen: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)
