"""The item trends that an answer read: the artifact's, or computed of the data set's events, or in the online store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

import params
from data.columns import MINUTE
from data.instants import from_iso
from experiments.lineage.served_lines import LineageError
from features import store
from features.online.connect import connect_to_read, settings
from features.online.errors import StoreError
from features.online.item_trends import ItemTrends
from features.store import Features
from features.trends import TrendSnapshot, last_refresh
from features.vocabulary import Vocabulary
from serving.worker import inputs
from serving.worker.recommender import Recommender

FEATURES = Path("features/out/test")


class OfflineTrends:
    """Item trends by the data set's events, as of any moment up to its end.

    Attributes:
        channels: that it has.
        dataset_hash: of the data set version.
        refresh_us: between two moments of which a platform has trends.
        until_us: where the data set ends.
    """

    def __init__(self, features: Features) -> None:
        about = features.description
        self.channels, self.dataset_hash, self.until_us = about["channels"], about["dataset_hash"], about["until_us"]
        self._minutes, self.refresh_us = about["refresh_minutes"], about["refresh_minutes"] * MINUTE
        self._log, self._vocabulary = features.trend_log(), features.vocabulary

    @classmethod
    def here(cls) -> OfflineTrends | None:
        """None where the features are not here."""
        return cls(store.load(FEATURES)) if (FEATURES / "description.json").exists() else None

    def due(self, time_us: int) -> int:
        """The last full refresh before a moment and before the data set's end."""
        return int(last_refresh(np.int64(min(time_us, self.until_us)), self._minutes))

    def at(self, vocabulary: Vocabulary, moment_us: int) -> TrendSnapshot:
        """By the rows of a model's vocabulary."""
        return ItemTrends.of(self._log, self._vocabulary, self.channels, moment_us).snapshot(vocabulary)


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
    offline = OfflineTrends.here()
    if offline is not None and moment <= offline.until_us:
        yield f"{FEATURES}, as of then", offline.at(recommender.vocabulary, moment)
    try:
        with closing(connect_to_read(chosen.dataset, settings())) as online:
            held = online.read_trends(moment)
    except StoreError:
        return
    if held is not None and held.time_us == moment:
        yield "the online store", held.snapshot(recommender.vocabulary)
