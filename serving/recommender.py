"""An artifact answers requests. Knows no server, loads no pandas: this runs inside the worker.

Legend: B batch, N item rows, k list length.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from features.encode import Batch, assemble, known, resolve_history, trait_row
from features.trends import last_refresh
from features.vocabulary import PAD
from serving.request import Request, RequestError, parse, to_iso
from training.models import artifact
from training.models.artifact import Artifact, ArtifactError
from training.models.rank import exclude, rank

__all__ = ["ArtifactError", "Recommender", "RequestError"]

NO_TRUTH = torch.zeros(2, 0, dtype=torch.int64)
ROWS = 8  # of each batch that is scored; empty requests fill it up, so that no answer depends on its neighbours


class Recommender:
    """A loaded model with everything needed to answer.

    Args:
        loaded: a verified artifact.
        version: what answers state as `model_version`.
    """

    def __init__(self, loaded: Artifact, version: str = "unregistered", folder: Path | None = None) -> None:
        self.artifact, self.version, self.folder = loaded, version, folder
        self.model, self.vocabulary = loaded.model, loaded.vocabulary
        self.manifest = loaded.manifest
        with torch.inference_mode():
            self.model.freeze()

    @classmethod
    def load(cls, folder: Path | str, version: str = "unregistered") -> Recommender:
        """Load and verify an artifact folder.

        Raises:
            ArtifactError: a file is missing, changed or does not fit.
        """
        return cls(artifact.load(folder), version, Path(folder))

    @torch.inference_mode()
    def scores(self, batch: Batch) -> Tensor:
        """(B, N) scores, seen items and padding at -inf."""
        return exclude(self.model.scores(batch), batch.seen)

    def rank(self, batch: Batch, truth: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """See `training.models.rank.rank`; evaluation asks this, with the scores that requests get."""
        return rank(self.scores(batch), truth, k)

    @torch.inference_mode()
    def recommend(self, bodies: list, now_us: int | None = None) -> list[dict | RequestError]:
        """Answer each parsed JSON body; a bad one gets its RequestError and costs the others nothing.

        Args:
            now_us: the clock, in microseconds; None reads the system's.
        """
        now = time.time_ns() // 1000 if now_us is None else now_us
        parsed = [_attempt(body, now) for body in bodies]
        good = [request for request in parsed if isinstance(request, Request)]
        answers = iter(self._answer(good) if good else [])
        return [next(answers) if isinstance(request, Request) else request for request in parsed]

    def encode(self, requests: list[Request]) -> Batch:
        """Requests as the tensors that training saw."""
        config = self.artifact.config
        histories = [resolve_history(request.history, request.time_us, config["repeats"]) for request in requests]
        pairs = [self._known(history) for history in histories]
        empty = np.empty(0, dtype=np.int64)
        moments = [last_refresh(np.int64(request.time_us), config["refresh_minutes"]) for request in requests]
        distinct, moment = np.unique(np.array(moments, dtype=np.int64), return_inverse=True)
        trends = self.artifact.trends
        if len(distinct) > 1:  # a snapshot holds one moment: no need to repeat it
            distinct, moment = distinct[:1], np.zeros(len(requests), dtype=np.int64)
        return assemble(
            np.concatenate([empty, *(items for items, _ in pairs)]),
            np.concatenate([empty, *(times for _, times in pairs)]),
            np.array([len(items) for items, _ in pairs], dtype=np.int64),
            np.array([request.time_us for request in requests], dtype=np.int64),
            self._rows(requests, "traits"),
            self._rows(requests, "context"),
            trends.at(distinct, self.model.channels),
            moment,
            self.model.max_history,
        )

    def golden(self) -> list[dict]:
        """The requests recorded at export, each with the answer given then."""
        lines = (self.folder / "golden.jsonl").read_text().splitlines() if self.folder else []
        return [json.loads(line) for line in lines]

    def _known(self, history: list[tuple[str, int]]) -> tuple[np.ndarray, np.ndarray]:
        items = self.vocabulary.indices(item for item, _ in history)
        return known(items, np.array([moment for _, moment in history], dtype=np.int64))

    def _rows(self, requests: list[Request], kind: str) -> np.ndarray:
        encoders = self.artifact.config["encoders"][kind]
        rows = [trait_row(request.context, encoders) for request in requests]
        return np.array(rows, dtype=np.int64).reshape(len(requests), len(encoders))

    def _answer(self, requests: list[Request]) -> list[dict]:
        parts = (requests[begin : begin + ROWS] for begin in range(0, len(requests), ROWS))
        return [answer for part in parts for answer in self._answer_part(part)]

    def _answer_part(self, requests: list[Request]) -> list[dict]:
        batch = self.encode(requests + [_nobody(requests[0].time_us)] * (ROWS - len(requests)))
        scores = self.scores(batch)[: len(requests)]
        for row, request in enumerate(requests):
            scores[row, self.vocabulary.indices(request.exclude)] = float("-inf")
        top, _ = rank(scores, NO_TRUTH, max(request.k for request in requests))
        best = scores.gather(1, top)
        return [
            self._dress(request, batch, row, top[row, : request.k].tolist(), best[row, : request.k].tolist())
            for row, request in enumerate(requests)
        ]

    def _dress(self, request: Request, batch: Batch, row: int, items: list[int], scores: list[float]) -> dict:
        rung, reason = self._rung(request, batch, row)
        latest = int(batch.item_times[row, -1])
        listed = [
            {"item_id": self.vocabulary.id(item), "score": score, "title": self.artifact.titles[item - 1]}
            for item, score in zip(items, scores, strict=True)
            if item != PAD
        ]
        return {
            "items": listed,
            "rung": rung,
            "reason": reason,
            "time": to_iso(request.time_us),
            "trends_time": to_iso(self.artifact.trends.time_us),
            "feature_time": to_iso(latest) if latest else None,
            "model_version": self.version,
            "dataset_version": self.manifest["dataset_hash"],
            "segments": [],
            "request_id": request.request_id,
        }

    def _rung(self, request: Request, batch: Batch, row: int) -> tuple[str, str]:
        events = int((batch.items[row] != PAD).sum())
        if not self.model.personal:
            return "popular", f"the deployed model ({self.model.name}) is the same for everybody"
        if events:
            return "personalised", f"ranked from {events} known event{'s' * (events > 1)} of the history"
        traits = bool((batch.traits[row] != 0).any())
        if traits and self.model.answers_cold():
            return "personalised", "ranked from the traits in the context; the history is empty"
        if request.history:
            return "popular", "no event of the history is of a known item and before the request's time"
        if request.stated:
            return "popular", "the history is empty"
        return "popular", "no history was stated, and no online store is configured to look one up"


def _nobody(time_us: int) -> Request:
    """A request that asks nothing, to fill a batch up with."""
    return Request(None, [], stated=False, k=1, time_us=time_us, context={}, request_id=None)


def _attempt(body: object, now_us: int) -> Request | RequestError:
    try:
        return parse(body, now_us)
    except RequestError as error:
        return error
