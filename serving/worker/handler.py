"""The adapter between TorchServe's worker API and the recommender. Worker side.

The only file that knows that API. It travels in the .mar, so it imports nothing that the worker's environment lacks.
TorchServe answers a whole batch with 503 when a handler raises. So every request of a batch gets its own response or its
own error here, and none affects the others.
"""

from __future__ import annotations

import gc
import json
import logging
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import torch

from serving.worker.recommender import ArtifactError, Recommender, RequestError
from serving.worker.response import find_difference
from serving.worker.users import StoreLookup
from serving.worker.worker_metrics import STORE, WorkerMetrics

log = logging.getLogger(__name__)

ARTIFACT = "artifact"  # folder of the artifact inside the archive
BODY_FIELDS = ("body", "data")  # where TorchServe puts what the client sent
PHRASES = {400: "Bad Request", 500: "Internal Server Error"}
NAN_SCORE = b'"score":null'  # orjson writes NaN as null; inside a text, the quotes would be escaped
NOISE = ("Backend received inference", "Failed json decoding", "Failed utf-8 decoding")


class Reply(NamedTuple):
    """One request's part of a batch; `level` is the fallback level of a response."""

    status: int
    body: bytes
    level: str | None = None


class Handler:
    """One loaded artifact that answers batches. TorchServe calls `initialize` once and `handle` per batch."""

    recommender: Recommender
    version: str

    def __init__(self) -> None:
        self.metrics = WorkerMetrics()

    def initialize(self, context: Any) -> None:
        """Load and verify the artifact, and answer its golden requests. Then TorchServe counts the worker as ready.

        So no client pays for the warm-up, and a worker that answers differently than at export never serves.

        Raises:
            ArtifactError: a file is missing or changed, or a golden request is refused or answered differently. (No
                RuntimeError: TorchServe does not log the text of one.)
        """
        torch.set_num_threads(1)  # workers are scaled by count: their threads would compete for cores
        logging.getLogger().addFilter(_is_news)
        started = time.perf_counter()
        folder = Path(context.system_properties["model_dir"]) / ARTIFACT
        self.version = served_version(context)
        self.recommender = Recommender.load(folder, self.version)  # responses give the version that serves them
        num_golden = self._answer_golden_requests()
        count = partial(self.metrics.add, STORE)
        self.recommender.lookup = StoreLookup.from_environment(self.recommender.manifest["dataset"], count)
        self.metrics.start(context.metrics, (context.model_name, self.version))
        gc.collect()
        gc.freeze()  # later collections skip the item names, or a request would wait for them
        seconds = time.perf_counter() - started
        log.info(
            "%s %s loaded in %.2f s, %d golden requests answered", context.model_name, self.version, seconds, num_golden
        )

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answer a batch: one JSON body per request, in order, each with its own status and content type."""
        started = time.perf_counter()
        parsed = [_parse(item) for item in data]
        valid = [index for index, value in enumerate(parsed) if not isinstance(value, RequestError)]
        responses = dict(zip(valid, self._recommend([parsed[index] for index in valid]), strict=True))
        replies = [_reply(responses.get(index, value)) for index, value in enumerate(parsed)]
        for index, reply in enumerate(replies):
            if reply.status != 200:
                context.set_response_status(reply.status, PHRASES[reply.status], index)
            context.set_response_content_type(index, "application/json")
        self.metrics.add_batch([(reply.status, reply.level) for reply in replies], time.perf_counter() - started)
        return [reply.body for reply in replies]

    def _recommend(self, requests: list[Any]) -> Sequence[dict | Exception]:
        if not requests:
            return []
        try:
            responses = self.recommender.recommend(requests)
            if len(responses) != len(requests):
                raise RuntimeError(f"{len(requests)} requests got {len(responses)} responses")
            return responses
        except Exception as error:
            if len(requests) == 1:
                log.error("a request failed", exc_info=error)
                return [error]
            log.warning("a batch of %d failed; answering one by one", len(requests))
            return [response for request in requests for response in self._recommend([request])]

    def _answer_golden_requests(self) -> int:
        cases = self.recommender.golden_cases()
        responses = self.recommender.recommend([case["request"] for case in cases])
        for number, (case, response) in enumerate(zip(cases, responses, strict=True)):
            if isinstance(response, Exception):
                raise ArtifactError(f"golden request {number} is refused: {response}")
            if difference := find_difference(case["answer"], response):
                raise ArtifactError(f"golden request {number} is answered differently than at export: {difference}")
        return len(cases)


def served_version(context: Any) -> str:
    """The version under which TorchServe serves this archive: "3.0" is the registry's version 3."""
    return str(context.manifest["model"]["modelVersion"])


def _reply(response: Any) -> Reply:
    try:
        return _encode(response)
    except Exception as error:  # a response that is not JSON costs only its own request
        log.error("a response could not be written as JSON", exc_info=error)
        return _encode(error)


def _encode(response: Any) -> Reply:
    if isinstance(response, RequestError):
        return Reply(400, _json({"code": 400, "field": response.field, "message": response.message}))
    if isinstance(response, Exception):
        return Reply(500, _json({"code": 500, "field": None, "message": "the recommender failed on this request"}))
    return Reply(200, _json(response), response.get("source"))


def _parse(item: dict[str, Any]) -> Any:
    """The JSON value that the client sent, or a RequestError."""
    body = next((item[field] for field in BODY_FIELDS if field in item), None)
    if body is None and not any(field in item for field in BODY_FIELDS):
        return RequestError("body", "missing; send one JSON object, with Content-Type: application/json")
    if not isinstance(body, str | bytes | bytearray):
        return body  # TorchServe has parsed it already
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        return RequestError("body", f"is not JSON: {_short(error)}")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _json(value: Any) -> bytes:
    try:
        text = orjson.dumps(value)
        if NAN_SCORE in text:
            raise ValueError("a score is not a finite number")
        return text
    except TypeError:  # a client may send half a surrogate pair as its request_id, which only ASCII can carry back
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def _is_news(record: logging.LogRecord) -> bool:
    """Drop the line per batch and the traceback per bad body that TorchServe's worker would log."""
    return not str(record.msg).startswith(NOISE)
