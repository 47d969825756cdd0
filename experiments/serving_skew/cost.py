"""What skew costs an answer: computed again by the same version from what the data set tells, its scores against those
that were served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from command import UserError
from data.instants import from_iso
from experiments.lineage import past_trends
from experiments.lineage.recompute import Found
from experiments.serving_skew.outcomes import Outcome
from experiments.serving_skew.sources import Sources
from features.trends import TrendSnapshot
from serving.edge import wire
from serving.worker.person import Person
from serving.worker.recommender import Recommender
from serving.worker.request import MAX_K
from serving.worker.rungs import SEGMENT
from serving.worker.trends import Trends


@dataclass(frozen=True)
class Held:
    """A line held against the data set.

    Attributes:
        outcomes: by group.
        person, snapshot: what should have been read; None where that is not known, or is what was read.
    """

    line: Mapping[str, Any]
    outcomes: dict[str, Outcome]
    person: Person | None = None
    snapshot: TrendSnapshot | None = None

    @property
    def skewed(self) -> bool:
        return any(outcome.skewed for outcome in self.outcomes.values())


@dataclass(frozen=True)
class Cost:
    """Attributes:
    difference: largest of the served scores to the recomputed ones, over the items of both; None where there are none,
        or they are of two rungs or of segments, whose scores are no measure of each other.
    kept: share of the served items that the recomputed list holds too.
    rung: of the recomputed answer.
    """

    difference: float | None
    kept: float
    rung: str


def cost(held: Held, sources: Sources) -> Cost | None:
    """None where the answer cannot be computed again."""
    line, stated = held.line, sources.stated(held.line)
    stored = line["basis"] == wire.STORED
    if stated is None or (stored and (held.person is None or "history" in stated)):
        return None
    body = {"time": line["time"]} | ({"user_id": sources.owners.get(line["user"], line["user"])} if stored else {})
    if not stored and "history" not in stated:
        body["history"] = []  # withheld, or of nobody
    try:
        model = sources.model(line)
        snapshot = held.snapshot or past_trends.find(line, model, sources.chosen)[1]
    except UserError:
        return None
    return _set_against(line, _recomputed(model, body | stated, held.person or Person(), snapshot, line))


def _recomputed(
    model: Recommender, body: dict[str, Any], person: Person, snapshot: TrendSnapshot | None, line: Mapping[str, Any]
) -> list[Any]:
    """The answer of the same length, and one that is as long as may be."""
    model.lookup = Found(person, snapshot)
    # The last line's trends are no longer to be seen, nor is anybody to wait before these are.
    model.trends = Trends(model.artifact.trends, model.vocabulary, model.model.channels)
    return model.recommend([body | {"k": k} for k in (line["k"], MAX_K)], now_us=from_iso(line["time"]))


def _set_against(line: Mapping[str, Any], recomputed: list[Any]) -> Cost | None:
    short, long = recomputed
    if isinstance(short, Exception) or isinstance(long, Exception) or not line["items"]:
        return None
    listed = {item["item_id"] for item in short["items"]}
    kept = sum(item in listed for item in line["items"]) / len(line["items"])
    if short["rung"] != line["rung"] or line["rung"] == SEGMENT or line.get("scores") is None:
        return Cost(None, kept, short["rung"])
    now = {item["item_id"]: item["score"] for item in long["items"]}
    served = zip(line["items"], line["scores"], strict=True)
    apart = [abs(score - now[item]) for item, score in served if score is not None and item in now]
    return Cost(max(apart, default=None), kept, short["rung"])
