"""Worker side: the adapter between TorchServe's worker API and the recommender.

The only file that knows that API. It travels in the .mar, so it imports nothing that the worker's
environment lacks. TorchServe answers a whole batch with 503 when a handler raises; here every request
of a batch gets its own answer or its own error, and none can cost its neighbours theirs.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from serving.recommender import Recommender, RequestError
from serving.store_lookup import StoreLookup

log = logging.getLogger(__name__)

ARTIFACT = "artifact"  # folder of the artifact inside the archive
BODY_FIELDS = ("body", "data")  # where TorchServe puts what the client sent
PHRASES = {400: "Bad Request", 500: "Internal Server Error"}
NOISE = ("Backend received inference", "Failed json decoding", "Failed utf-8 decoding")


class Handler:
    """One loaded artifact, answering batches; TorchServe calls `initialize` once and `handle` per batch."""

    recommender: Recommender
    version: str

    def initialize(self, context: Any) -> None:
        """Load and verify the artifact; answer the golden requests once, so that no client pays for warm-up.

        Raises:
            ArtifactError: a file is missing, or is not the one that the manifest names.
            RuntimeError: a golden request is refused.
        """
        torch.set_num_threads(1)  # workers are scaled by count: their threads would fight for cores
        logging.getLogger().addFilter(_is_news)
        started = time.perf_counter()
        folder = Path(context.system_properties["model_dir"]) / ARTIFACT
        self.version = served_version(context)
        self.recommender = Recommender.load(folder, self.version)  # answers state the version that serves them
        self._warm_up()
        self.recommender.lookup = StoreLookup.of(self.recommender.manifest["dataset"])
        log.info("%s %s loaded in %.2f s", context.model_name, self.version, time.perf_counter() - started)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answer a batch: one JSON body per request, in order, each with its own status and content type."""
        parsed = [_parse(item) for item in data]
        wanted = [index for index, value in enumerate(parsed) if not isinstance(value, RequestError)]
        answers = dict(zip(wanted, self._recommend([parsed[index] for index in wanted]), strict=True))
        return [_reply(answers.get(index, value), index, context) for index, value in enumerate(parsed)]

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

    def _warm_up(self) -> None:
        requests = [case["request"] for case in self.recommender.golden()]
        for request, answer in zip(requests, self.recommender.recommend(requests), strict=True):
            if isinstance(answer, Exception):
                raise RuntimeError(f"the golden request {request} is refused: {answer}")


def served_version(context: Any) -> str:
    """The version under which TorchServe serves this archive: "3.0" is the registry's version 3."""
    return str(context.manifest["model"]["modelVersion"])


def _reply(answer: Any, index: int, context: Any) -> bytes:
    try:
        status, body = _encode(answer)
    except Exception as error:  # an answer that is not JSON is ours to mend, and only this request's loss
        log.error("an answer could not be written as JSON", exc_info=error)
        status, body = _encode(error)
    if status != 200:
        context.set_response_status(status, PHRASES[status], index)
    context.set_response_content_type(index, "application/json")
    return body


def _encode(answer: Any) -> tuple[int, bytes]:
    if isinstance(answer, RequestError):
        return 400, _json({"code": 400, "field": answer.field, "message": answer.message})
    if isinstance(answer, Exception):
        return 500, _json({"code": 500, "field": None, "message": "the recommender failed on this request"})
    return 200, _json(answer)


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
    # ASCII only: a client may send half a surrogate pair as its request_id, which UTF-8 cannot carry back.
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def _is_news(record: logging.LogRecord) -> bool:
    """Drop the line per batch and the traceback per bad body that TorchServe's worker would log."""
    return not str(record.msg).startswith(NOISE)
