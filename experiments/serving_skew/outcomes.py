"""What came of holding one group of an answer's features against the data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

HISTORY, TRAITS, TRENDS = GROUPS = ("history", "traits", "trends")  # the parts of serving.worker.inputs
MATCHED, DIFFERENT = "matched", "different"
NOT_SERVED, ONLY_SERVED = "missing in the answer", "missing in the data set"
COMPARED = (MATCHED, DIFFERENT, NOT_SERVED, ONLY_SERVED)
NOTHING, NOT_COMPARABLE = "nothing on either side", "not comparable"


class Outcome(NamedTuple):
    """`why` is, of what is not comparable, the reason; of what does not match, what it looks like."""

    kind: str
    why: str = ""

    @property
    def skewed(self) -> bool:
        return self.kind in COMPARED and self.kind != MATCHED


def not_comparable(why: str, groups: Sequence[str] = GROUPS) -> dict[str, Outcome]:
    return {group: Outcome(NOT_COMPARABLE, why) for group in groups}


def kind_of(served: str, due: str, nothing: str) -> str:
    """By digests: of what was read, of what the data set tells, and of nothing."""
    if served == due:
        return NOTHING if due == nothing else MATCHED
    if served == nothing:
        return NOT_SERVED
    return ONLY_SERVED if due == nothing else DIFFERENT


def not_computed(line: Mapping[str, Any]) -> str | None:
    """Why no feature of an answer can be compared; None where some can."""
    if line.get("cache") == "none" or line["rung"] in ("cached", "static"):
        return "no worker computed it: the edge gave a list that it had"
    if not line.get("inputs") or "basis" not in line:
        return "its line states no digest of what was read: it is of an older worker or edge"
    return None
