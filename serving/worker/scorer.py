"""A loaded model that scores requests. Knows no server and loads no pandas: it runs inside the worker.

Legend: B batch, N item rows, M columns, C trend channels, k list length.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from features.encode import Batch, drop_unknown, encode_values, make_batch
from features.trends import TrendSnapshot
from features.vocabulary import PAD, Vocabulary
from serving.worker.request import Request
from serving.worker.response import FIRST_ROW, digest_of_trends
from serving.worker.users import User, UserLookup
from training.models import artifact
from training.models.artifact import Artifact
from training.models.base import EXCLUDED
from training.models.query import log_trends
from training.models.ranking import exclude, rank

NO_TRUTH = torch.zeros(2, 0, dtype=torch.int64)


@dataclass
class BatchScores:
    """Scores of a batch: of the whole catalog, or of a shortlist of candidates."""

    scores: Tensor  # (B, M), -inf for what may not be recommended
    rows: Tensor | None = None  # (B, M) item rows of a shortlist, PAD first; None: column j is item row j
    # Of a shortlist only. (B, M) bool: the columns above which it can miss nothing. (B,) bool: whether the model saw as
    # many candidates as it wants.
    from_index: Tensor | None = None
    is_complete: Tensor | None = None

    def values_of(self, row: int, item_values: Tensor) -> Tensor:
        """(M,) values of a request's columns, from (N,) values by item row."""
        return item_values if self.rows is None else item_values[self.rows[row]]

    def exclude_items(self, row: int, items: np.ndarray) -> None:
        """Never recommend these item rows to a request."""
        if self.rows is None:
            self.scores[row, items] = EXCLUDED
        elif len(items):
            self.scores[row, torch.isin(self.rows[row], torch.from_numpy(items))] = EXCLUDED

    def has_best(self, row: int, count: int) -> bool:
        """Whether the best `count` items of the catalog are in here, or all where there are fewer."""
        if self.from_index is None or self.is_complete is None:
            return True
        usable = self.from_index[row] & (self.scores[row] > EXCLUDED)
        return bool(self.is_complete[row]) and int(usable.sum()) >= count

    def best(self, rows: list[int], k: int) -> tuple[Tensor, Tensor]:
        """For n requests (n, k) item rows, PAD where nothing is left, and their scores; best first."""
        scores = self.scores if rows == list(range(len(self.scores))) else self.scores[rows]
        best, top = scores.topk(min(k + 1, scores.shape[1]), dim=1)
        values = best.numpy()
        if ((values[:, 1:] == values[:, :-1]) & (values[:, 1:] > EXCLUDED)).any():  # `rank` orders equal scores
            top, _ = rank(scores, NO_TRUTH, k)
            best = scores.gather(1, top)
        top, best = top[:, :k], best[:, :k]
        if self.rows is not None:
            top = self.rows[rows].gather(1, top)
        return top.masked_fill(best == EXCLUDED, PAD), best


class Scorer:
    """A model with its vocabulary and encoders, as an artifact in a folder holds them."""

    def __init__(self, loaded: Artifact, version: str = "unregistered", folder: Path | None = None) -> None:
        self.artifact, self.version, self.folder = loaded, version, folder
        self.model, self.vocabulary, self.manifest = loaded.model, loaded.vocabulary, loaded.manifest
        self._trend_inputs: list[tuple[TrendSnapshot, np.ndarray, Tensor | None]] = []
        with torch.inference_mode():
            self.model.freeze()

    @classmethod
    def load(cls, folder: Path | str, version: str = "unregistered") -> Self:
        """Load and verify an artifact folder. Raises ArtifactError: a file is missing, changed or does not fit."""
        return cls(artifact.load(folder), version, Path(folder))

    @torch.inference_mode()
    def scores(self, batch: Batch) -> Tensor:
        """(B, N) scores, seen items and padding at -inf."""
        return exclude(self.model.scores(batch), batch.seen)

    def rank(self, batch: Batch, truth: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """See `training.models.ranking.rank`; evaluation calls this, so it ranks the scores that requests get."""
        return rank(self.scores(batch), truth, k)

    def encode(self, requests: list[Request], users: list[User], trends: TrendSnapshot) -> Batch:
        """Requests, their users and the items' trends as the tensors that training saw."""
        items, times, lengths = drop_unknown(
            self.vocabulary.indices([item for user in users for item in user.items]),
            np.array([time_us for user in users for time_us in user.times], dtype=np.int64),
            np.array([len(user.items) for user in users], dtype=np.int64),
        )
        trends_NC, logs = self.trend_inputs(trends)
        traits = [{**user.traits, **request.context} for request, user in zip(requests, users, strict=True)]
        batch = make_batch(
            items,
            times,
            lengths,
            np.array([request.time_us for request in requests], dtype=np.int64),
            self._encode_columns(traits, "traits"),
            self._encode_columns([request.context for request in requests], "context"),
            trends_NC,
            np.zeros(len(requests), dtype=np.int64),
            self.model.max_history,
        )
        batch.log_trends = logs
        return batch

    def trend_inputs(self, snapshot: TrendSnapshot) -> tuple[np.ndarray, Tensor | None]:
        """(1, N, C) trends, and for a network their (1, C, N) logarithms. Kept, because every batch reads the same."""
        for kept, trends, logs in self._trend_inputs:
            if kept is snapshot:
                return trends, logs
        trends = np.require(snapshot.at(FIRST_ROW, self.model.channels), requirements=["C", "W"])
        logs = log_trends(torch.from_numpy(trends)) if self.model.learned and self.model.channels else None
        self._trend_inputs = [*self._trend_inputs[-1:], (snapshot, trends, logs)]  # the export's and the newest
        return trends, logs

    def golden_cases(self) -> list[dict]:
        """The requests recorded at export, each with its response."""
        assert self.folder is not None
        lines = (self.folder / "golden.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def _encode_columns(self, values: list[dict], kind: str) -> np.ndarray:
        encoders = self.artifact.config["encoders"][kind]
        rows = [encode_values(one, encoders) for one in values]
        return np.array(rows, dtype=np.int64).reshape(len(values), len(encoders))


log = logging.getLogger(__name__)

REFRESH_SECONDS = 10  # the stream updates the store's trends every few minutes


class LiveTrends:
    """Gives each request the newest trends that are not later than its own time."""

    def __init__(self, exported: TrendSnapshot, vocabulary: Vocabulary, channels: Sequence[str]) -> None:
        self._exported, self._vocabulary, self._channels = exported, vocabulary, channels
        self._live: TrendSnapshot | None = None
        self._digests: dict[int, str] = {}  # by time
        self._next_refresh = 0.0

    def snapshots(self) -> list[TrendSnapshot]:
        """The snapshots at hand, oldest first."""
        return [self._exported] if self._live is None else [self._exported, self._live]

    def at(self, time_us: int) -> TrendSnapshot:
        """The snapshot for a request's time."""
        return self._live if self._live is not None and self._live.time_us <= time_us else self._exported

    def digest(self, snapshot: TrendSnapshot) -> str:
        """Digest of one of the snapshots; kept, because every response gives it."""
        if snapshot.time_us not in self._digests:
            self._digests = {one.time_us: digest_of_trends(one, self._channels) for one in self.snapshots()}
        return self._digests[snapshot.time_us]

    def refresh(self, lookup: UserLookup, now_us: int) -> None:
        """Take newer trends from the store, at most once in REFRESH_SECONDS."""
        if not self._channels or time.monotonic() < self._next_refresh:
            return
        self._next_refresh = time.monotonic() + REFRESH_SECONDS
        found = lookup.find_trends(self._vocabulary, now_us, self.snapshots()[-1].time_us)
        if found is None:
            return
        if missing := set(self._channels) - set(found.channels):
            log.warning("the online store's trends lack %s, which the model reads", ", ".join(sorted(missing)))
            return
        self._live = found
