"""Worker side: the adapter between TorchServe's worker API and the recommender.

The only file that knows that API. It travels in the .mar, so it imports nothing that the worker's
environment lacks. TorchServe answers a whole batch with 503 when a handler raises; here every request
of a batch gets its own answer or its own error, and none can cost its neighbours theirs.
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
from serving.worker.response import difference
from serving.worker.users import StoreLookup
from serving.worker.worker_metrics import STORE, Tally

log = logging.getLogger(__name__)

ARTIFACT = "artifact"  # folder of the artifact inside the archive
BODY_FIELDS = ("body", "data")  # where TorchServe puts what the client sent
PHRASES = {400: "Bad Request", 500: "Internal Server Error"}
NO_SCORE = b'"score":null'  # what orjson makes of NaN; a quote inside a text would be escaped
NOISE = ("Backend received inference", "Failed json decoding", "Failed utf-8 decoding")


class Reply(NamedTuple):
    """One request's part of a batch; `rung` is that of an answer."""

    status: int
    body: bytes
    rung: str | None = None


class Handler:
    """One loaded artifact, answering batches; TorchServe calls `initialize` once and `handle` per batch."""

    recommender: Recommender
    version: str

    def __init__(self) -> None:
        self.tally = Tally()

    def initialize(self, context: Any) -> None:
        """Load and verify the artifact, and answer its golden requests; TorchServe counts the worker as ready after.

        So no client pays for warm-up, and a worker that answers otherwise than at export never answers.

        Raises:
            ArtifactError: a file is missing, or is not the one that the manifest names; or a golden request is
                refused or answered otherwise. (No RuntimeError: TorchServe keeps the text of one to itself.)
        """
        torch.set_num_threads(1)  # workers are scaled by count: their threads would fight for cores
        logging.getLogger().addFilter(_is_news)
        started = time.perf_counter()
        folder = Path(context.system_properties["model_dir"]) / ARTIFACT
        self.version = served_version(context)
        self.recommender = Recommender.load(folder, self.version)  # answers state the version that serves them
        asked = self._warm_up()
        count = partial(self.tally.add, STORE)
        self.recommender.lookup = StoreLookup.of(self.recommender.manifest["dataset"], count)
        self.tally.start(context.metrics, (context.model_name, self.version))
        gc.collect()
        gc.freeze()  # a collection would look through every item's name, and a request would wait for it
        took = time.perf_counter() - started
        log.info("%s %s loaded in %.2f s, %d golden requests answered", context.model_name, self.version, took, asked)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answer a batch: one JSON body per request, in order, each with its own status and content type."""
        begun = time.perf_counter()
        parsed = [_parse(item) for item in data]
        wanted = [index for index, value in enumerate(parsed) if not isinstance(value, RequestError)]
        answers = dict(zip(wanted, self._recommend([parsed[index] for index in wanted]), strict=True))
        replies = [_reply(answers.get(index, value)) for index, value in enumerate(parsed)]
        for index, reply in enumerate(replies):
            if reply.status != 200:
                context.set_response_status(reply.status, PHRASES[reply.status], index)
            context.set_response_content_type(index, "application/json")
        self.tally.batch([(reply.status, reply.rung) for reply in replies], time.perf_counter() - begun)
        return [reply.body for reply in replies]

    def _recommend(self, requests: list[Any]) -> Sequence[dict | Exception]:
        if not requests:
            return []
        try:
            answers = self.recommender.recommend(requests)
            if len(answers) != len(requests):
                raise RuntimeError(f"{len(requests)} requests brought {len(answers)} answers")
            return answers
        except Exception as error:
            if len(requests) == 1:
                log.error("a request failed", exc_info=error)
                return [error]
            log.warning("a batch of %d failed; answering one by one", len(requests))
            return [answer for request in requests for answer in self._recommend([request])]

    def _warm_up(self) -> int:
        cases = self.recommender.golden()
        answers = self.recommender.recommend([case["request"] for case in cases])
        for number, (case, answer) in enumerate(zip(cases, answers, strict=True)):
            if isinstance(answer, Exception):
                raise ArtifactError(f"golden request {number} is refused: {answer}")
            if fault := difference(case["answer"], answer):
                raise ArtifactError(f"golden request {number} is answered otherwise than at export: {fault}")
        return len(cases)


def served_version(context: Any) -> str:
    """The version under which TorchServe serves this archive: "3.0" is the registry's version 3."""
    return str(context.manifest["model"]["modelVersion"])


def _reply(answer: Any) -> Reply:
    try:
        return _encode(answer)
    except Exception as error:  # an answer that is not JSON is ours to mend, and only this request's loss
        log.error("an answer could not be written as JSON", exc_info=error)
        return _encode(error)


def _encode(answer: Any) -> Reply:
    if isinstance(answer, RequestError):
        return Reply(400, _json({"code": 400, "field": answer.field, "message": answer.message}))
    if isinstance(answer, Exception):
        return Reply(500, _json({"code": 500, "field": None, "message": "the recommender failed on this request"}))
    return Reply(200, _json(answer), answer.get("rung"))


def _parse(item: dict[str, Any]) -> Any:
    """The JSON value that the client sent, or the RequestError that it earned."""
    body = next((item[field] for field in BODY_FIELDS if field in item), None)
    if body is None and not any(field in item for field in BODY_FIELDS):
        return RequestError("body", "is missing; send one JSON object, with Content-Type: application/json")
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
        written = orjson.dumps(value)
        if NO_SCORE in written:
            raise ValueError("a score is no finite number")
        return written
    except TypeError:  # a client may send half a surrogate pair as its request_id, which only ASCII can carry back
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def _is_news(record: logging.LogRecord) -> bool:
    """Drop the line per batch and the traceback per bad body that TorchServe's worker would log."""
    return not str(record.msg).startswith(NOISE)
