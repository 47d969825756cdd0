"""An exported model answers requests. Knows no server and loads no pandas: it runs inside the worker.

Legend: B batch, N item rows, M columns, k list length.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from data.times import to_iso
from features.encode import Batch
from features.trends import ALL, TrendSnapshot
from features.vocabulary import PAD
from serving.worker.fallback_level import FallbackLevel, SegmentLists, choose_level
from serving.worker.index import ItemIndex, Retrieval
from serving.worker.request import Request, RequestError, parse
from serving.worker.rerank import ItemAttributes, ListRules
from serving.worker.response import FIRST_ROW, build_response, describe_processor, input_digests
from serving.worker.scorer import BatchScores, LiveTrends, Scorer
from serving.worker.users import User, UserLookup, resolve_users
from training.models.artifact import Artifact, ArtifactError
from training.models.base import EXCLUDED
from training.models.ranking import exclude

__all__ = ["ArtifactError", "Recommender", "RequestError"]

log = logging.getLogger(__name__)

BATCH_ROWS = 8  # every scored batch has so many rows, some of them empty, so that no response depends on its neighbors


class Recommender(Scorer):
    """A scorer with everything that a response needs. Responses give its version as `model_version`.

    Attributes:
        lookup: finds users by id; None knows only what requests themselves say.
    """

    lookup: UserLookup | None = None

    def __init__(self, loaded: Artifact, version: str = "unregistered", folder: Path | None = None) -> None:
        super().__init__(loaded, version, folder)
        self.attributes = ItemAttributes.load(folder, len(self.vocabulary))
        self.segments = SegmentLists.load(folder, self.vocabulary, self.attributes)
        self.list_rules = ListRules.load(loaded.config.get("serve", {}), folder, self.attributes)
        self.always = torch.tensor(sorted(self.segments.listed_items()), dtype=torch.int64)
        index = ItemIndex.load(folder, loaded.manifest)
        self.retrieval = None if index is None else Retrieval(self, index, self.always)
        self.trends = LiveTrends(loaded.trends, self.vocabulary, self.model.channels)
        self.numeric_ids = loaded.config["numeric_ids"]
        self.common_fields = {
            "model_version": version,
            "numeric_ids": self.numeric_ids,
            "dataset_version": loaded.manifest["dataset_hash"],
            "computed_on": describe_processor(),
        }

    @torch.inference_mode()
    def recommend(self, bodies: list, now_us: int | None = None) -> list[dict | RequestError]:
        """Answer each parsed JSON body. A bad one gets its RequestError and does not affect the others.

        Args:
            now_us: the current time in microseconds; None reads the system's clock.
        """
        now = time.time_ns() // 1000 if now_us is None else now_us
        if self.lookup is not None:
            self.trends.refresh(self.lookup, now)
        parsed = [self._parse(body, now) for body in bodies]
        good = [request for request in parsed if isinstance(request, Request)]
        responses = iter(self._respond(good) if good else [])
        return [next(responses) if isinstance(request, Request) else request for request in parsed]

    def _parse(self, body: object, now_us: int) -> Request | RequestError:
        try:
            request = parse(body, now_us, self.numeric_ids)
            if request.filters:
                self.attributes.excluded_by(request.filters)  # names an attribute that does not exist
            return request
        except RequestError as error:
            return error

    def _respond(self, requests: list[Request]) -> list[dict]:
        users = resolve_users(requests, self.artifact.config["repeats"], self.lookup)
        responses: dict[int, dict] = {}
        for trends in self.trends.snapshots():
            of_trends = [row for row, one in enumerate(requests) if self.trends.at(one.time_us) is trends]
            for begin in range(0, len(of_trends), BATCH_ROWS):
                rows = of_trends[begin : begin + BATCH_ROWS]
                part = self._respond_batch([requests[row] for row in rows], [users[row] for row in rows], trends)
                responses |= zip(rows, part, strict=True)
        return [responses[row] for row in range(len(requests))]

    def _respond_batch(self, requests: list[Request], users: list[User], trends: TrendSnapshot) -> list[dict]:
        """Responses to at most BATCH_ROWS requests, computed with the same trends."""
        missing = BATCH_ROWS - len(requests)
        empty = Request(None, [], has_history=False, k=1, time_us=requests[0].time_us, context={}, request_id=None)
        batch = self.encode(requests + [empty] * missing, users + [User()] * missing, trends)
        segments = [self.segments.of_user(user, request) for request, user in zip(requests, users, strict=True)]
        num_events = (batch.items.numpy() != PAD).sum(axis=1).tolist()
        has_traits = (batch.traits.numpy() != 0).any(axis=1).tolist()
        levels: dict[int, FallbackLevel] = {}
        lists: dict[int, list[dict]] = {}
        for scored, failed in self._scored_candidates(batch, trends, len(requests), lists):
            waiting = [row for row in range(len(requests)) if row not in lists]
            for row in waiting:
                listed = [name for name in segments[row] if self.segments.popular.get(name)]
                levels[row] = choose_level(
                    self.model, requests[row], users[row], num_events[row], has_traits[row], listed, failed
                )
                self._apply_request(requests[row], levels[row], scored, row)
            lists |= self._lists(scored, waiting, requests)
        latest = batch.item_times[:, -1].tolist()
        common = self.common_fields | {"trends_time": to_iso(trends.time_us)}
        digest = self.trends.digest(trends)
        return [
            build_response(
                request,
                levels[row] if lists[row] else self._without_items(levels[row], request, batch.seen, row),
                lists[row],
                users[row].feature_time_us or latest[row],
                segments[row],
                input_digests(request, users[row], digest),
                common,
            )
            for row, request in enumerate(requests)
        ]

    def _scored_candidates(
        self, batch: Batch, trends: TrendSnapshot, num_requests: int, lists: dict[int, list[dict]]
    ) -> Iterator[tuple[BatchScores, bool]]:
        """Shortlists of growing length, then the whole catalog, until every request is in `lists`; and whether the
        model failed."""
        for count in self.retrieval.index.candidate_counts if self.retrieval else ():
            assert self.retrieval is not None
            waiting = [row for row in range(num_requests) if row not in lists]
            if not waiting:
                return
            try:
                scored = self.retrieval.shortlist(batch, waiting, trends, count)
            except Exception:
                log.exception("the index failed")
                break
            if scored.scores.isnan().any():
                break
            yield scored, False
        if len(lists) < num_requests:
            scores, failed = self._scores_or_popularity(batch)
            yield BatchScores(scores), failed

    def _scores_or_popularity(self, batch: Batch) -> tuple[Tensor, bool]:
        """The model's scores and False; where it fails, how often items were taken, and True."""
        try:
            scores = self.scores(batch)
            if not scores.amax(dim=1).isnan().any():  # NaN is the maximum of its row
                return scores, False
            log.error("the model scored NaN")
        except Exception:
            log.exception("the model failed")
        counts = torch.tensor(self.artifact.trends.at(FIRST_ROW, [ALL])[0, :, 0]).float()
        return exclude(counts.expand(len(batch), -1), batch.seen), True

    def _without_items(self, level: FallbackLevel, request: Request, seen: Tensor, row: int) -> FallbackLevel:
        """The level of an empty list, whose reason says why it is empty."""
        num_items = len(self.vocabulary) - 1
        reason = f"the user took all {num_items} items of the catalog, so none is left"
        if len(seen[1, seen[0] == row].unique()) < num_items:
            rules = [name for name in ("exclude", "filters") if getattr(request, name)]
            reason = f"the request's {' and '.join(rules)} leave no item that the user has not taken"
        return replace(level, reason=f"{level.reason}; {reason}")

    def _apply_request(self, request: Request, level: FallbackLevel, scored: BatchScores, row: int) -> None:
        """Put a segment's list first where the response is one, and remove what the request excludes."""
        scores = scored.scores[row]
        if level.segment is not None:  # what its members took, by how often; below it the rest, as scored
            taken = torch.from_numpy(self.segments.scores(level.segment, len(self.vocabulary)))
            counts = scored.values_of(row, taken)
            scores[:] = torch.where((counts > 0) & (scores > EXCLUDED), counts, scores - scores.max() - 1)
        if request.exclude:
            scored.exclude_items(row, self.vocabulary.indices(request.exclude))
        if request.filters:
            excluded = torch.from_numpy(self.attributes.excluded_by(request.filters))
            scores[scored.values_of(row, excluded)] = EXCLUDED

    def _lists(self, scored: BatchScores, waiting: list[int], requests: list[Request]) -> dict[int, list[dict]]:
        """Row -> its items, best first, after the artifact's list rules; without rows for which a shortlist is too
        short."""
        counts = {row: max(self.list_rules.num_candidates, requests[row].k) for row in waiting}
        ready = [row for row in waiting if scored.has_best(row, counts[row])]
        if not ready:
            return {}
        items, best = scored.best(ready, max(counts[row] for row in ready))
        ids, titles, lists = self.vocabulary.ids, self.artifact.titles, {}
        for row, candidates, scores in zip(ready, items.tolist(), best.tolist(), strict=True):
            rows = [item for item in candidates[: counts[row]] if item != PAD]
            order = self.list_rules.order(rows, scores[: len(rows)], requests[row].k)
            lists[row] = [
                {"item_id": ids[rows[place] - 1], "score": scores[place], "title": titles[rows[place] - 1]}
                for place in order
            ]
        return lists
