"""An artifact answers requests. Knows no server, loads no pandas: this runs inside the worker.

Legend: B batch, N item rows, k list length.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from features.encode import Batch
from features.trends import ALL, TrendSnapshot
from features.vocabulary import PAD
from serving.answer import dress
from serving.attributes import Attributes
from serving.person import Lookup, Person, people_of
from serving.presentation import Presentation
from serving.request import Request, RequestError, parse, to_iso
from serving.rungs import rung_of
from serving.scorer import Scorer
from serving.segment_lists import SegmentLists
from serving.trends import Trends
from training.models.artifact import Artifact, ArtifactError
from training.models.rank import exclude, rank

__all__ = ["ArtifactError", "Recommender", "RequestError"]

log = logging.getLogger(__name__)

NO_TRUTH = torch.zeros(2, 0, dtype=torch.int64)
ROWS = 8  # of each batch that is scored; empty requests fill it up, so that no answer depends on its neighbours
UNRANKED = float("-inf")


class Recommender(Scorer):
    """A scorer with everything needed to answer. Its version is what answers state as `model_version`.

    Attributes:
        lookup: finds users that a request names; None knows only what requests state.
    """

    lookup: Lookup | None = None

    def __init__(self, loaded: Artifact, version: str = "unregistered", folder: Path | None = None) -> None:
        super().__init__(loaded, version, folder)
        self.attributes = Attributes.load(folder, len(self.vocabulary))
        self.segments = SegmentLists.load(folder, self.vocabulary, self.attributes)
        self.presentation = Presentation.load(loaded.config.get("serve", {}), folder, self.attributes)
        self.trends = Trends(loaded.trends, self.vocabulary, self.model.channels)
        self.about = {
            "model_version": version,
            "dataset_version": loaded.manifest["dataset_hash"],
        }

    @torch.inference_mode()
    def recommend(self, bodies: list, now_us: int | None = None) -> list[dict | RequestError]:
        """Answer each parsed JSON body; a bad one gets its RequestError and costs the others nothing.

        Args:
            now_us: the clock, in microseconds; None reads the system's.
        """
        now = time.time_ns() // 1000 if now_us is None else now_us
        if self.lookup is not None:
            self.trends.freshen(self.lookup, now)
        parsed = [self._attempt(body, now) for body in bodies]
        good = [request for request in parsed if isinstance(request, Request)]
        answers = iter(self._answer(good) if good else [])
        return [next(answers) if isinstance(request, Request) else request for request in parsed]

    def _attempt(self, body: object, now_us: int) -> Request | RequestError:
        try:
            request = parse(body, now_us)
            self.attributes.barred(request.filters)
            return request
        except RequestError as error:
            return error

    def _answer(self, requests: list[Request]) -> list[dict]:
        people = people_of(requests, self.artifact.config["repeats"], self.lookup)
        answers: dict[int, dict] = {}
        for trends in self.trends.known():
            asked = [row for row, one in enumerate(requests) if self.trends.of(one.time_us) is trends]
            for begin in range(0, len(asked), ROWS):
                rows = asked[begin : begin + ROWS]
                part = self._answer_part([requests[row] for row in rows], [people[row] for row in rows], trends)
                answers |= zip(rows, part, strict=True)
        return [answers[row] for row in range(len(requests))]

    def _answer_part(self, requests: list[Request], people: list[Person], trends: TrendSnapshot) -> list[dict]:
        missing = ROWS - len(requests)
        nobody = _nobody(requests[0].time_us)
        batch = self.encode(requests + [nobody] * missing, people + [Person()] * missing, trends)
        scores, failed = self._scores_or_counts(batch)
        segments = [self._segments(request, person) for request, person in zip(requests, people, strict=True)]
        events = (batch.items != PAD).sum(dim=1).tolist()
        traits = (batch.traits != 0).any(dim=1).tolist()
        rungs = []
        for row, (request, person) in enumerate(zip(requests, people, strict=True)):
            lists = [name for name in segments[row] if self.segments.popular.get(name)]
            rung = rung_of(self.model, request, person, events[row], traits[row], lists, failed)
            if rung.segment is not None:
                scores[row] = self._in_segment(rung.segment, scores[row])
            if request.exclude:
                scores[row, self.vocabulary.indices(request.exclude)] = UNRANKED
            if request.filters:
                scores[row, torch.from_numpy(self.attributes.barred(request.filters))] = UNRANKED
            rungs.append(rung)
        shown = self._shown(scores[: len(requests)], requests)
        latest = batch.item_times[:, -1].tolist()
        about = self.about | {"trends_time": to_iso(trends.time_us)}
        return [
            dress(request, rungs[row], shown[row], people[row].feature_time_us or latest[row], segments[row], about)
            for row, request in enumerate(requests)
        ]

    def _scores_or_counts(self, batch: Batch) -> tuple[Tensor, bool]:
        """The model's scores; where it fails, how often items were taken, since an answer is owed all the same."""
        try:
            scores = self.scores(batch)
            if not scores.isnan().any():
                return scores, False
            log.error("the model scored NaN")
        except Exception:
            log.exception("the model failed")
        counts = torch.tensor(self.artifact.trends.at(np.zeros(1, np.int64), [ALL])[0, :, 0]).float()
        return exclude(counts.expand(len(batch), -1), batch.seen), True

    def _segments(self, request: Request, person: Person) -> list[str]:
        return self.segments.of(person.history, {**person.traits, **request.context}, request.time_us)

    def _in_segment(self, name: str, scores: Tensor) -> Tensor:
        """(N,) first what the segment's members took, by how often; below it the rest, as scored."""
        counts = torch.from_numpy(self.segments.scores(name, len(scores)))
        rest = scores - scores.max() - 1
        return torch.where((counts > 0) & (scores > UNRANKED), counts, rest)

    def _shown(self, scores: Tensor, requests: list[Request]) -> list[list[dict]]:
        """What each request is shown, best first, after the steps that the artifact declares."""
        top, _ = rank(scores, NO_TRUTH, max(self.presentation.needed, *(request.k for request in requests)))
        best = scores.gather(1, top)
        shown = []
        for row, request in enumerate(requests):
            rows = [item for item in top[row].tolist() if item != PAD]
            values = best[row].tolist()
            places = self.presentation.places(rows, values[: len(rows)], request.k)
            shown.append([self._item(rows[place], values[place]) for place in places])
        return shown

    def _item(self, row: int, score: float) -> dict:
        return {"item_id": self.vocabulary.id(row), "score": score, "title": self.artifact.titles[row - 1]}


def _nobody(time_us: int) -> Request:
    """A request that asks nothing, to fill a batch up with."""
    return Request(None, [], stated=False, k=1, time_us=time_us, context={}, request_id=None)
