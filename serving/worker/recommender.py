"""An artifact answers requests. Knows no server, loads no pandas: this runs inside the worker.

Legend: B batch, N item rows, k list length.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.times import to_iso
from features.encode import Batch
from features.trends import ALL, TrendSnapshot
from features.vocabulary import PAD
from serving.worker import response
from serving.worker.fallback import Rung, SegmentLists, rung_of
from serving.worker.index import Index, Retrieval
from serving.worker.item_trends import Trends
from serving.worker.request import Request, RequestError, parse
from serving.worker.rerank import Attributes, Presentation
from serving.worker.response import dress
from serving.worker.scorer import UNRANKED, BatchScores, Scorer
from serving.worker.users import Lookup, Person, people_of
from training.models.artifact import Artifact, ArtifactError
from training.models.ranking import exclude

__all__ = ["ArtifactError", "Recommender", "RequestError"]

log = logging.getLogger(__name__)

ROWS = 8  # of each batch that is scored; empty requests fill it up, so that no answer depends on its neighbours


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
        self.always = torch.tensor(sorted(self.segments.listed()), dtype=torch.int64)
        index = Index.load(folder, loaded.manifest)
        self.retrieval = None if index is None else Retrieval(self, index, self.always)
        self.trends = Trends(loaded.trends, self.vocabulary, self.model.channels)
        self.about = {
            "model_version": version,
            "dataset_version": loaded.manifest["dataset_hash"],
            "computed_on": response.described(),
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
            if request.filters:
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
        segments = [self._segments(request, person) for request, person in zip(requests, people, strict=True)]
        events = (batch.items.numpy() != PAD).sum(axis=1).tolist()
        traits = (batch.traits.numpy() != 0).any(axis=1).tolist()
        rungs: dict[int, Rung] = {}
        shown: dict[int, list[dict]] = {}
        for scored, failed in self._looks(batch, trends, len(requests), shown):
            waiting = [row for row in range(len(requests)) if row not in shown]
            for row in waiting:
                lists = [name for name in segments[row] if self.segments.popular.get(name)]
                rungs[row] = rung_of(self.model, requests[row], people[row], events[row], traits[row], lists, failed)
                self._obey(requests[row], rungs[row], scored, row)
            shown |= self._shown(scored, waiting, requests)
        latest = batch.item_times[:, -1].tolist()
        about = self.about | {"trends_time": to_iso(trends.time_us)}
        digest = self.trends.digest(trends)
        read = [response.of(request, person, digest) for request, person in zip(requests, people, strict=True)]
        known = [person.feature_time_us or moment for person, moment in zip(people, latest, strict=False)]
        return [
            dress(request, rungs[row], shown[row], known[row], segments[row], read[row], about)
            for row, request in enumerate(requests)
        ]

    def _looks(
        self, batch: Batch, trends: TrendSnapshot, asked: int, shown: dict[int, list[dict]]
    ) -> Iterator[tuple[BatchScores, bool]]:
        """Shortlists that reach further and further, then the whole catalogue, until all that are asked are shown
        something; and whether the model failed."""
        if self.retrieval is not None:
            for scored in self._shortlists(self.retrieval, batch, trends, asked, shown):
                yield scored, False
        if len(shown) < asked:
            scores, failed = self._scores_or_counts(batch)
            yield BatchScores(scores), failed

    def _shortlists(
        self, retrieval: Retrieval, batch: Batch, trends: TrendSnapshot, asked: int, shown: dict[int, list[dict]]
    ) -> Iterator[BatchScores]:
        for reach in retrieval.reaches:
            waiting = [row for row in range(asked) if row not in shown]
            if not waiting:
                return
            try:
                scored = retrieval.shortlist(batch, waiting, trends, reach)
            except Exception:
                log.exception("the index failed")
                return
            if scored.scores.isnan().any():
                return
            yield scored

    def _scores_or_counts(self, batch: Batch) -> tuple[Tensor, bool]:
        """The model's scores; where it fails, how often items were taken, since an answer is owed all the same."""
        try:
            scores = self.scores(batch)
            if not scores.amax(dim=1).isnan().any():  # a NaN is the greatest of its row
                return scores, False
            log.error("the model scored NaN")
        except Exception:
            log.exception("the model failed")
        counts = torch.tensor(self.artifact.trends.at(np.zeros(1, np.int64), [ALL])[0, :, 0]).float()
        return exclude(counts.expand(len(batch), -1), batch.seen), True

    def _obey(self, request: Request, rung: Rung, scored: BatchScores, row: int) -> None:
        """Put first what the segment took, where its list is the answer, and bar what the request bars."""
        if rung.segment is not None:
            scored.scores[row] = self._in_segment(rung.segment, scored, row)
        if request.exclude:
            scored.bar(row, self.vocabulary.indices(request.exclude))
        if request.filters:
            scored.bar_where(row, scored.of_items(row, torch.from_numpy(self.attributes.barred(request.filters))))

    def _segments(self, request: Request, person: Person) -> list[str]:
        return self.segments.of(person.items, person.times, {**person.traits, **request.context}, request.time_us)

    def _in_segment(self, name: str, scored: BatchScores, row: int) -> Tensor:
        """(M,) first what the segment's members took, by how often; below it the rest, as scored."""
        counts = scored.of_items(row, torch.from_numpy(self.segments.scores(name, len(self.vocabulary))))
        scores = scored.scores[row]
        rest = scores - scores.max() - 1
        return torch.where((counts > 0) & (scores > UNRANKED), counts, rest)

    def _shown(self, scored: BatchScores, waiting: list[int], requests: list[Request]) -> dict[int, list[dict]]:
        """What each of these is shown, best first, after the steps that the artifact declares; those of whom the
        shortlist holds too little are left out."""
        needed = {row: max(self.presentation.needed, requests[row].k) for row in waiting}
        held = [row for row in waiting if scored.holds(row, needed[row])]
        if not held:
            return {}
        items, best = scored.best(held, max(needed[row] for row in held))
        ids, titles, shown = self.vocabulary.ids, self.artifact.titles, {}
        for row, of_row, values in zip(held, items.tolist(), best.tolist(), strict=True):
            rows = [item for item in of_row[: needed[row]] if item != PAD]
            places = self.presentation.places(rows, values[: len(rows)], requests[row].k)
            shown[row] = [
                {"item_id": ids[rows[place] - 1], "score": values[place], "title": titles[rows[place] - 1]}
                for place in places
            ]
        return shown


def _nobody(time_us: int) -> Request:
    """A request that asks nothing, to fill a batch up with."""
    return Request(None, [], stated=False, k=1, time_us=time_us, context={}, request_id=None)
