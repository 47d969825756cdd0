"""Item trends that an answer read, held against those of the data set's events as of the last refresh before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data.instants import from_iso, to_iso
from experiments.lineage.past_trends import FEATURES, OfflineTrends
from experiments.serving_skew.outcomes import DIFFERENT, MATCHED, NOT_COMPARABLE, NOT_SERVED, Outcome
from experiments.serving_skew.sources import Sources
from features.trends import TrendSnapshot
from serving.worker.recommender import Recommender

NO_CHANNELS = "the model reads no trends"
OWN_MOMENT = "the request states its own moment, and a worker keeps the newest trends alone"
NOT_HERE = f"{FEATURES} is not here (`dvc pull`)"
OTHER_VERSION = f"the model is of another data set version than {FEATURES}"
NEWER = "the trends are newer than the data set: ingest again"


def of_trends(
    line: Mapping[str, Any], model: Recommender, sources: Sources
) -> tuple[Outcome, TrendSnapshot | None]:  # fmt: skip
    """(the outcome, the trends that were due; None where that is not known, or where they were read)."""
    trends = sources.trends
    why = _why_not(line, model, trends)
    if why is not None or trends is None:
        return Outcome(NOT_COMPARABLE, why or NOT_HERE), None
    due_us = trends.due(from_iso(line["time"]))
    found = _outcome(line, model, trends, due_us, sources)
    return found, trends.at(model.vocabulary, due_us) if found.skewed else None


def _why_not(line: Mapping[str, Any], model: Recommender, trends: OfflineTrends | None) -> str | None:
    channels = model.model.channels
    if not channels:
        return NO_CHANNELS
    if line["asked"] == line["time"]:  # else the worker's clock told the time, some microseconds after the edge's
        return OWN_MOMENT
    if trends is None:
        return NOT_HERE
    if line["dataset_version"] != trends.dataset_hash:
        return OTHER_VERSION
    if absent := set(channels) - set(trends.channels):
        return f"{FEATURES} has no trend {', '.join(sorted(absent))}"
    return NEWER if from_iso(line["trends_time"]) > trends.until_us else None


def _outcome(
    line: Mapping[str, Any], model: Recommender, trends: OfflineTrends, due_us: int, sources: Sources
) -> Outcome:  # fmt: skip
    read_us = from_iso(line["trends_time"])
    if sources.trends_digest(trends, model, read_us) != line["inputs"].get("trends"):
        return Outcome(DIFFERENT, f"other values than the data set's as of {line['trends_time']}")
    if due_us - trends.refresh_us <= read_us <= from_iso(line["time"]):  # the last refresh may still be on its way
        return Outcome(MATCHED)
    if read_us == model.artifact.trends.time_us:
        return Outcome(NOT_SERVED, f"the export's own, of {line['trends_time']}; those of {to_iso(due_us)} were due")
    return Outcome(DIFFERENT, f"stale: of {line['trends_time']}; those of {to_iso(due_us)} were due")
