"""What a run of benchmarks.serving says: ratios to the no-op, targets beside what was measured, the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks._load import Load

NOOP, HANDLER, EDGE, CACHED = "no-op", "handler", "edge", "edge cached"
CASES = (NOOP, HANDLER, EDGE, CACHED)

Points = Mapping[tuple[str, int], Load]  # by case and concurrency


@dataclass(frozen=True)
class Aim:
    """One target at one concurrency; `at_most` says on which side of the bound the figure should lie."""

    text: str
    concurrency: int
    figure: float
    bound: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        return self.figure <= self.bound if self.at_most else self.figure >= self.bound


def ratios(points: Points) -> dict[tuple[str, int], float]:
    """Requests a second, of those of the no-op at the same concurrency."""
    return {(case, count): point.per_second / points[NOOP, count].per_second for (case, count), point in points.items()}


def aims(points: Points) -> list[Aim]:
    """The targets, for every concurrency to which they apply."""
    found = []
    for count in sorted({count for _, count in points}):
        noop, handler, edge, cached = (points[case, count] for case in CASES)
        if count == 1:  # a lone request pays the batch's delay, so its throughput is not the point
            lag = handler.p50_ms - noop.p50_ms
            found.append(Aim("handler's p50 less the no-op's, ms", count, lag, 1.5, at_most=True))
        else:
            found.append(Aim("handler's requests/s of the no-op's", count, handler.per_second / noop.per_second, 1))
            found.append(Aim("handler's p99 of the no-op's", count, handler.p99_ms / noop.p99_ms, 1.5, at_most=True))
        found.append(Aim("edge's requests/s of the handler's", count, edge.per_second / handler.per_second, 1 / 3))
        found.append(Aim("cached edge's requests/s of the no-op's", count, cached.per_second / noop.per_second, 1 / 2))
    return found


def table(points: Points) -> str:
    """A line per point, then a line per target."""
    head = f"{'':<12}{'conc.':>6}{'requests/s':>12}{'p50 ms':>9}{'p99 ms':>9}{'of no-op':>10}{'not 200':>9}{'other':>7}"
    share = ratios(points)
    lines = [_line(case, count, point, share[case, count]) for (case, count), point in points.items()]
    told = [_told(aim) for aim in aims(points)]
    return "\n".join([head, *lines, "", *told])


def figures(points: Points) -> dict:
    """The same for results/serving.json."""
    share = ratios(points)
    return {
        "points": [
            {
                "case": case, "concurrency": count, "requests_per_second": round(point.per_second, 1),
                "p50_ms": point.p50_ms, "p99_ms": point.p99_ms, "ratio": round(share[case, count], 3),
                "requests": point.requests, "not_200": point.refused, "not_personal": point.other,
                "failed": point.broken + point.late,
            }
            for (case, count), point in points.items()
        ],
        "targets": [
            {
                "target": aim.text, "concurrency": aim.concurrency, "figure": round(aim.figure, 3),
                "at_most" if aim.at_most else "at_least": round(aim.bound, 3), "met": aim.met,
            }
            for aim in aims(points)
        ],
    }  # fmt: skip


def soaked(readings: Sequence[Mapping[str, float]]) -> str:
    """A line per reading of memory: after how many requests, then MB by process."""
    lines = []
    for reading in readings:
        held = "  ".join(f"{name} {value:,.1f} MB" for name, value in reading.items() if name != "requests")
        lines.append(f"after {reading['requests']:>9,} requests: {held}")
    return "\n".join(lines)


def _line(case: str, count: int, point: Load, ratio: float) -> str:
    failed = point.refused + point.broken + point.late
    return (
        f"{case:<12}{count:>6}{point.per_second:>12,.0f}{point.p50_ms:>9.2f}{point.p99_ms:>9.2f}{ratio:>10.2f}"
        f"{failed:>9,}{point.other:>7,}"
    )


def _told(aim: Aim) -> str:
    side = "at most" if aim.at_most else "at least"
    word = "met" if aim.met else "MISSED"
    return f"{word:<7} at {aim.concurrency:>2}: {aim.text}: {aim.figure:.2f} ({side} {aim.bound:.2f})"
