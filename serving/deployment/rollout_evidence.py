"""Evidence of a rollout: what the edge counts of the new version and the champion, and when it proves a limit exceeded.

Each process of the edge writes its own counts; their sum is judged. Three limits of `rollout.limits` in params.yaml are
tested: errors (Fisher's exact test), p99 latency (binomial test) and overlap of the lists (Hoeffding's bound). The tests
are repeated as evidence grows. Look n of a test uses the level alpha * 6 / (pi n)^2 / 3: over all looks and the three
tests these sum to at most alpha, so alpha bounds how often a version as good as the champion is rolled back in one step.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from config import files
from config.params import Rollout

GROWTH = 1.05  # ratio of a latency bucket to the one before: a p99 is exact to 5%
FIRST_BUCKET_SECONDS = 1e-4
FIRST_LOOK, LOOK_GROWTH = 8, 1.25  # calls and comparisons at the first look, and their growth from look to look
NUM_LIMITS = 3
SLOW_SHARE = 0.01  # share of the calls that take longer than the p99


@dataclass
class VersionCounts:
    """Calls of one version, how many failed, and how long they took (bucket -> calls)."""

    calls: int = 0
    errors: int = 0
    latencies: Counter[int] = field(default_factory=Counter)

    def count(self, failed: bool, seconds: float) -> None:
        self.calls += 1
        self.errors += failed
        self.latencies[latency_bucket(seconds)] += 1

    @property
    def error_rate(self) -> float:
        return self.errors / self.calls if self.calls else 0.0

    def p99(self) -> float:
        """Seconds within which 99% of the calls ended, as the upper end of their bucket; 0 without calls."""
        remaining = math.ceil(0.99 * self.calls)
        for bucket in sorted(self.latencies):
            remaining -= self.latencies[bucket]
            if remaining <= 0:
                return FIRST_BUCKET_SECONDS * GROWTH**bucket
        return 0.0

    def slower_than(self, seconds: float) -> int:
        """Number of calls that certainly took longer."""
        buckets = [bucket for bucket in self.latencies if FIRST_BUCKET_SECONDS * GROWTH ** (bucket - 1) >= seconds]
        return sum(self.latencies[bucket] for bucket in buckets)

    def add(self, other: VersionCounts) -> None:
        self.calls += other.calls
        self.errors += other.errors
        self.latencies.update(other.latencies)


@dataclass
class RolloutEvidence:
    """What was counted in one step of a rollout."""

    champion: VersionCounts = field(default_factory=VersionCounts)
    candidate: VersionCounts = field(default_factory=VersionCounts)
    compared: int = 0  # requests that both versions answered
    overlap: float = 0.0  # sum over these requests: the share of the champion's list that the candidate's list holds
    first_changed: int = 0  # of these requests, those whose first item differs

    @property
    def mean_overlap(self) -> float:
        return self.overlap / self.compared if self.compared else 1.0

    def compare(self, champion: list[str], candidate: list[str]) -> None:
        """Count the two lists that answer one request. An empty list of the champion is not compared."""
        if champion:
            self.compared += 1
            self.overlap += len(set(champion) & set(candidate)) / len(champion)
            self.first_changed += champion[0] != (candidate[0] if candidate else None)

    def add(self, other: RolloutEvidence) -> None:
        self.champion.add(other.champion)
        self.candidate.add(other.candidate)
        self.compared += other.compared
        self.overlap += other.overlap
        self.first_changed += other.first_changed


STEP_EVIDENCE = TypeAdapter(tuple[str, RolloutEvidence])  # a step and what one process counted in it


def latency_bucket(seconds: float) -> int:
    return max(0, math.ceil(math.log(max(seconds, FIRST_BUCKET_SECONDS) / FIRST_BUCKET_SECONDS, GROWTH)))


def evidence_folder(stage_path: Path) -> Path:
    """The folder, next to the stage's file, in which the processes of the edge write their counts."""
    return stage_path.with_suffix(".evidence")


def write_evidence(path: Path, step: str, evidence: RolloutEvidence) -> None:
    """Write one process's counts of a step, atomically. A power failure may cost the newest, as a killed process does."""
    files.write_bytes(path, STEP_EVIDENCE.dump_json((step, evidence)), durable=False)


def total_evidence(stage_path: Path, step: str) -> RolloutEvidence:
    """The sum of what all processes counted in a step, those that have ended included."""
    total = RolloutEvidence()
    for path in evidence_folder(stage_path).glob("*.json"):
        counted_in, evidence = _read(path)
        if counted_in == step:
            total.add(evidence)
    return total


def remove_other_steps(stage_path: Path, step: str) -> None:
    """Remove what was counted in other steps."""
    for path in evidence_folder(stage_path).glob("*.json"):
        if _read(path)[0] != step:
            path.unlink(missing_ok=True)


def number_of_looks(evidence: RolloutEvidence) -> int:
    """How many looks this amount of evidence allows; 0 for none yet."""
    amount = evidence.candidate.calls + evidence.compared
    return 0 if amount < FIRST_LOOK else 1 + int(math.log(amount / FIRST_LOOK, LOOK_GROWTH))


def exceeded_limit(evidence: RolloutEvidence, plan: Rollout) -> str | None:
    """The limit that is proven to be exceeded, with its figures; None for none."""
    look = max(1, number_of_looks(evidence))
    return _figure_beyond_limit(evidence, plan, plan.limits.alpha * 6 / (math.pi * look) ** 2 / NUM_LIMITS)


def questionable_figure(evidence: RolloutEvidence, plan: Rollout) -> str | None:
    """The first figure that lies beyond its limit, proven or not: no reason to roll back, but to wait."""
    return _figure_beyond_limit(evidence, plan, level=1.0)


def summary(evidence: RolloutEvidence) -> str:
    """Errors, p99 and overlap in one line."""
    return "; ".join(_figures(evidence))


def fisher_p_value(errors: int, calls: int, other_errors: int, other_calls: int) -> float:
    """One-sided p-value of Fisher's exact test: P(at least `errors` of all errors fall on the first side by chance)."""
    total, all_errors = calls + other_calls, errors + other_errors
    all_ways = _log_choose(total, calls)
    log_probabilities = (
        _log_choose(all_errors, hits) + _log_choose(total - all_errors, calls - hits) - all_ways
        for hits in range(errors, min(calls, all_errors) + 1)
        if calls - hits <= total - all_errors
    )
    return min(1.0, math.fsum(map(math.exp, log_probabilities)))


def binomial_tail(hits: int, trials: int, share: float) -> float:
    """P(X >= hits) of a binomial count."""
    log_probabilities = (
        _log_choose(trials, n) + n * math.log(share) + (trials - n) * math.log1p(-share)
        for n in range(hits, trials + 1)
    )
    return min(1.0, math.fsum(map(math.exp, log_probabilities)))


def _figure_beyond_limit(evidence: RolloutEvidence, plan: Rollout, level: float) -> str | None:
    """The first figure beyond its limit, where chance explains that with a probability of at most `level`."""
    candidate, champion, limits = evidence.candidate, evidence.champion, plan.limits
    errors, p99, overlap = _figures(evidence)
    by_chance = fisher_p_value(candidate.errors, candidate.calls, champion.errors, champion.calls)
    if candidate.error_rate - champion.error_rate > limits.error_excess and by_chance <= level:
        return errors
    late = candidate.slower_than(limits.p99_ratio * champion.p99()) if champion.calls else 0
    if late > SLOW_SHARE * candidate.calls + 1:  # one more than the p99 itself allows
        has_requests = min(candidate.calls, champion.calls) >= plan.min_requests
        if level == 1 or (has_requests and binomial_tail(late, candidate.calls, SLOW_SHARE) <= level):
            return p99
    bound = math.sqrt(-math.log(level) / (2 * evidence.compared)) if evidence.compared else 0
    return overlap if evidence.mean_overlap + bound < limits.overlap else None


def _figures(evidence: RolloutEvidence) -> tuple[str, str, str]:
    candidate, champion = evidence.candidate, evidence.champion
    return (
        f"errors {candidate.errors} of {candidate.calls}, against {champion.errors} of {champion.calls}",
        f"p99 {candidate.p99() * 1000:.1f} ms, against {champion.p99() * 1000:.1f} ms",
        f"overlap {evidence.mean_overlap:.2f} and {evidence.first_changed} other first items of {evidence.compared} compared",
    )


def _log_choose(total: int, chosen: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)


def _read(path: Path) -> tuple[str, RolloutEvidence]:
    try:
        return STEP_EVIDENCE.validate_json(path.read_bytes())
    except (OSError, ValidationError):  # removed by another process in the meantime
        return "", RolloutEvidence()
