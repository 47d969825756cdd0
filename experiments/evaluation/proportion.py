"""A share of a number of trials, with its interval."""

from __future__ import annotations

from scipy.stats import binomtest


def interval(hits: int, trials: int) -> tuple[float, float]:
    """95% interval of the share (Wilson 1927); of no trials everything."""
    if not trials:
        return 0.0, 1.0
    found = binomtest(hits, trials).proportion_ci(method="wilson")
    return float(found.low), float(found.high)
