"""The report of benchmarks.serving: medians and ranges over separate runs, and the targets beside what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks._load import Load

NOOP, HANDLER, EDGE, CACHED = "no-op", "handler", "edge", "edge cached"
CASES = (NOOP, HANDLER, EDGE, CACHED)
ROW = "{:<12}{:>6} {:>23} {:>21} {:>23} {:>19} {:>8} {:>6}"

Points = Mapping[tuple[str, int], Load]  # one run: (case, concurrency) -> what was measured


@dataclass(frozen=True)
class Spread:
    """A figure over separate runs."""

    median: float
    low: float
    high: float

    @classmethod
    def over(cls, runs: Sequence[Points], figure: Callable[[Points], float]) -> Spread:
        """The spread of a figure that each run gives."""
        values = [figure(points) for points in runs]
        return cls(median(values), min(values), max(values))

    def rounded(self, digits: int) -> dict[str, float]:
        return {name: round(value, digits) for name, value in vars(self).items()}


@dataclass(frozen=True)
class Target:
    """A bound at one concurrency, which the median over the runs has to meet."""

    text: str
    concurrency: int
    figure: Spread
    bound: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        return self.figure.median <= self.bound if self.at_most else self.figure.median >= self.bound


def targets(runs: Sequence[Points]) -> list[Target]:
    """The targets at each concurrency to which they apply."""
    found = []
    for count in concurrencies(runs):
        if count == 1:  # a lone request waits the batch delay, so its latency is the point, not its throughput
            lag = Spread.over(runs, lambda points: points[HANDLER, 1].p50_ms - points[NOOP, 1].p50_ms)
            found.append(Target("handler p50 minus no-op p50, ms", 1, lag, 4, at_most=True))
        else:
            found.append(Target("handler / no-op, requests/s", count, ratio(runs, HANDLER, NOOP, count), 0.6))
        found.append(Target("edge / handler, requests/s", count, ratio(runs, EDGE, HANDLER, count), 0.3))
        if count == 8:
            p99 = Spread.over(runs, lambda points: points[EDGE, 8].p99_ms)
            found.append(Target("edge p99, ms", 8, p99, 50, at_most=True))
    return found


def concurrencies(runs: Sequence[Points]) -> list[int]:
    return sorted({count for _, count in runs[0]})


def ratio(runs: Sequence[Points], case: str, reference: str, count: int) -> Spread:
    """Throughput of a case divided by that of another in the same run."""
    return Spread.over(runs, lambda points: points[case, count].per_second / points[reference, count].per_second)


def table(runs: Sequence[Points]) -> str:
    """A line per case and concurrency, then a line per target: medians, with the range over the runs in brackets."""
    head = ROW.format("", "conc.", "requests/s", "p50 ms", "p99 ms", "of no-op", "not 200", "other")
    lines = [_line(runs, case, count) for count in concurrencies(runs) for case in CASES]
    return "\n".join([head, *lines, "", *(_target_line(target) for target in targets(runs))])


def figures(runs: Sequence[Points]) -> dict:
    """The same for results/serving.json."""
    return {
        "points": [
            {
                "case": case, "concurrency": count,
                "requests_per_second": _per_second(runs, case, count).rounded(1),
                "p50_ms": _p50(runs, case, count).rounded(3), "p99_ms": _p99(runs, case, count).rounded(3),
                "of_noop": ratio(runs, case, NOOP, count).rounded(3),
                "requests": _total(runs, case, count, lambda load: load.requests),
                "not_200": _total(runs, case, count, lambda load: load.refused),
                "not_personal": _total(runs, case, count, lambda load: load.other),
                "failed": _total(runs, case, count, lambda load: load.broken + load.late),
            }
            for count in concurrencies(runs)
            for case in CASES
        ],
        "targets": [
            {
                "target": target.text, "concurrency": target.concurrency, **target.figure.rounded(3),
                "at_most" if target.at_most else "at_least": target.bound, "met": target.met,
            }
            for target in targets(runs)
        ],
    }  # fmt: skip


def memory_lines(readings: Sequence[Mapping[str, float]]) -> str:
    """A line per reading of memory: after how many requests, then MB by process."""
    lines = []
    for reading in readings:
        held = "  ".join(f"{name} {value:,.1f} MB" for name, value in reading.items() if name != "requests")
        lines.append(f"after {reading['requests']:>9,} requests: {held}")
    return "\n".join(lines)


def _per_second(runs: Sequence[Points], case: str, count: int) -> Spread:
    return Spread.over(runs, lambda points: points[case, count].per_second)


def _p50(runs: Sequence[Points], case: str, count: int) -> Spread:
    return Spread.over(runs, lambda points: points[case, count].p50_ms)


def _p99(runs: Sequence[Points], case: str, count: int) -> Spread:
    return Spread.over(runs, lambda points: points[case, count].p99_ms)


def _total(runs: Sequence[Points], case: str, count: int, value: Callable[[Load], int]) -> int:
    return sum(value(points[case, count]) for points in runs)


def _line(runs: Sequence[Points], case: str, count: int) -> str:
    failed = _total(runs, case, count, lambda load: load.refused + load.broken + load.late)
    other = _total(runs, case, count, lambda load: load.other)
    return ROW.format(
        case,
        count,
        _shown(_per_second(runs, case, count), 0),
        _shown(_p50(runs, case, count), 2),
        _shown(_p99(runs, case, count), 2),
        _shown(ratio(runs, case, NOOP, count), 2),
        failed,
        other,
    )


def _target_line(target: Target) -> str:
    side = "at most" if target.at_most else "at least"
    word = "met" if target.met else "MISSED"
    return f"{word:<7} at {target.concurrency:>2}: {target.text}: {_shown(target.figure, 2)}, {side} {target.bound:g}"


def _shown(spread: Spread, digits: int) -> str:
    return f"{spread.median:,.{digits}f} [{spread.low:,.{digits}f}, {spread.high:,.{digits}f}]"
