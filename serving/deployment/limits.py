"""Whether a version on trial passed a limit, by tests that hold however often one looks.

errors   Fisher's exact test, one-sided, that the candidate fails more often than the champion, and an excess above
         `error_excess`.
p99      binomial test that more than 1% of the candidate's calls took longer than `p99_ratio` times the champion's
         p99, once each has `min_requests`; the champion's p99 is taken as it was measured.
overlap  Hoeffding's bound: the mean over requests that both answered is below `overlap`.

Each step may look often: look j has 6 / (pi^2 j^2) of `alpha`, which sums to `alpha`, and the three limits share it.
Looks come when the candidate's calls and comparisons have grown by a quarter. Requests count as independent,
though one user makes several.
"""

from __future__ import annotations

import math

from rollout_params import Rollout
from serving.deployment.evidence import Evidence

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
