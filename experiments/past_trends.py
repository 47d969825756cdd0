"""The item trends that an answer read: the artifact's, or computed of the data set's events, or in the online store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import params
from data.instants import from_iso
from experiments.served_lines import LineageError
from features import store
from features.online.connect import connect_to_read, settings
from features.online.errors import StoreError
from features.online.item_trends import ItemTrends
from features.trends import TrendSnapshot
from serving import inputs
from serving.recommender import Recommender

FEATURES = Path("features/out/test")


def find(line: Mapping[str, Any], recommender: Recommender, chosen: params.Params) -> tuple[str, TrendSnapshot | None]:
    """(where they were found, the trends); None where the artifact's own hold.

    Raises:
        LineageError: they are nowhere any more.
    """
    moment, channels = from_iso(line["trends_time"]), recommender.model.channels
    if not channels or moment == recommender.artifact.trends.time_us:
        return "the artifact", None
    stated = (line.get("inputs") or {}).get("trends")
    found = list(_live(moment, recommender, chosen))
    for source, snapshot in found:
        if stated in (None, inputs.of_trends(snapshot, channels)):
            return source, snapshot
    if found:
        return found[0]
    raise LineageError(
        f"the item trends of {line['trends_time']} are no longer there: the online store holds others, and "
        f"{FEATURES}, of which they could be computed, is not here (`dvc pull`)"
    )


def _live(moment: int, recommender: Recommender, chosen: params.Params) -> Iterator[tuple[str, TrendSnapshot]]:
    if (FEATURES / "description.json").exists():
        features = store.load(FEATURES)
        if moment <= features.description["until_us"]:
            channels = features.description["channels"]
            made = ItemTrends.of(features.trend_log(), features.vocabulary, channels, moment)
            yield f"{FEATURES}, as of then", made.snapshot(recommender.vocabulary)
    try:
        with closing(connect_to_read(chosen.dataset, settings())) as online:
            held = online.read_trends(moment)
    except StoreError:
        return
    if held is not None and held.time_us == moment:
        yield "the online store", held.snapshot(recommender.vocabulary)
