"""The adapter between TorchServe's worker API and the recommender. Worker side.

The only file that knows that API. It travels in the .mar, so it imports nothing that the worker's environment lacks.
TorchServe answers a whole batch with 503 when a handler raises. So every request of a batch gets its own response or
error, and none affects the others.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import torch

from config.redact import install as install_redaction
from serving.worker.recommender import ArtifactError, Recommender, RequestError
from serving.worker.response import find_difference
from serving.worker.users import StoreLookup

log = logging.getLogger(__name__)

ARTIFACT = "artifact"  # folder of the artifact inside the archive
PHRASES = {400: "Bad Request", 500: "Internal Server Error"}
NAN_SCORE = b'"score":null'  # orjson writes NaN as null; inside a text, the quotes would be escaped
NOISE = ("Backend received inference", "Failed json decoding", "Failed utf-8 decoding")

REPORT_SECONDS = 1.0
ANSWERS, REFUSED = "tidegate_worker_answers_total", "tidegate_worker_refused_total"
BATCHES, BUSY = "tidegate_worker_batches_total", "tidegate_worker_busy_seconds_total"
STORE, MEMORY = "tidegate_worker_store_queries_total", "tidegate_worker_memory_bytes"
MODEL_LABELS = ("model_name", "model_version")
# The label of each metric in addition to the model's.
LABEL = {ANSWERS: "source", REFUSED: "status", BATCHES: "size", STORE: "outcome", BUSY: None}


class Reply(NamedTuple):
    """One request's part of a batch; `level` is the fallback level of a response."""

    status: int
    body: bytes
    level: str | None = None


class Handler:
    """One loaded artifact that answers batches. TorchServe calls `initialize` once and `handle` per batch."""

    recommender: Recommender

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
        logging.getLogger().addFilter(lambda record: not str(record.msg).startswith(NOISE))
        started = time.perf_counter()
        name, version = context.model_name, str(context.manifest["model"]["modelVersion"])
        folder = Path(context.system_properties["model_dir"]) / ARTIFACT
        self.recommender = Recommender.load(folder, version)  # responses give the version that serves them
        num_golden = self._answer_golden_requests()
        count = partial(self.metrics.add, STORE)
        self.recommender.lookup = StoreLookup.from_environment(self.recommender.manifest["dataset"], count)
        self.metrics.start(context.metrics, (name, version))
        gc.collect()
        gc.freeze()  # later collections skip the item names, or a request would wait for them
        seconds = time.perf_counter() - started
        install_redaction(error_texts=False)  # from here on, errors may quote a client
        log.info("%s %s loaded in %.2f s, %d golden requests answered", name, version, seconds, num_golden)

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
        try:
            return self.recommender.recommend(requests) if requests else []
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


def _parse(item: dict[str, Any]) -> Any:
    """The JSON value that the client sent, or a RequestError."""
    body = item.get("body", item.get("data"))  # TorchServe uses either
    if body is None:
        return RequestError("body", "missing; send one JSON object, with Content-Type: application/json")
    if not isinstance(body, str | bytes | bytearray):
        return body  # TorchServe has parsed it already
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        return RequestError("body", f"is not JSON: {' '.join(str(error).split())[:200]}")


def _reply(response: Any) -> Reply:
    """A response, a RequestError or another exception as TorchServe sends it."""
    if isinstance(response, RequestError):
        return Reply(400, _json({"code": 400, "field": response.field, "message": response.message}))
    if not isinstance(response, Exception):
        try:
            return Reply(200, _json(response), response.get("source"))
        except Exception as error:  # a response that is not JSON costs only its own request
            log.error("a response could not be written as JSON", exc_info=error)
    return Reply(500, _json({"code": 500, "field": None, "message": "the recommender failed on this request"}))


def _json(value: Any) -> bytes:
    try:
        text = orjson.dumps(value)
        if NAN_SCORE in text:
            raise ValueError("a score is not a finite number")
        return text
    except TypeError:  # an error may repeat half a surrogate pair of a client, which only ASCII can carry back
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


class WorkerMetrics:
    """Counts from any thread. Reports nothing before `start`.

    TorchServe takes a worker's metrics as lines that the worker prints, one per value, and parses each. Four lines for
    every batch made a lone request 5% slower (4.53 to 4.74 ms, 4,200 requests each). So a thread reports sums about
    once a second, at no cost that could be measured. A worker that is killed loses its last second.
    """

    def __init__(self) -> None:
        self._counts: defaultdict[tuple[str, str | None], float] = defaultdict(float)
        self._lock = threading.Lock()

    def add(self, name: str, label: object = None, value: float = 1) -> None:
        """Add to the count of a metric under a label."""
        with self._lock:
            self._counts[name, None if label is None else str(label)] += value

    def add_batch(self, outcomes: list[tuple[int, str | None]], seconds: float) -> None:
        """Count one batch: each request's status, and the fallback level of its response where there is one."""
        self.add(BATCHES, len(outcomes))
        self.add(BUSY, None, seconds)
        for status, level in outcomes:
            if status == 200:
                self.add(ANSWERS, level)
            else:
                self.add(REFUSED, status)

    def take(self) -> dict[tuple[str, str | None], float]:
        """(metric, label) -> the count since the last call."""
        with self._lock:
            taken, self._counts = self._counts, defaultdict(float)
        return dict(taken)

    def start(self, cache: Any, model: tuple[str, str]) -> None:
        """Report the counts of a (name, version) to TorchServe's metrics cache for as long as the process lives."""
        from ts.metrics.metric_type_enum import MetricTypes  # not at the top: tests run without TorchServe

        kinds = {name: (MetricTypes.COUNTER, label) for name, label in LABEL.items()}
        kinds[MEMORY] = (MetricTypes.GAUGE, "worker")
        series = {
            name: cache.add_metric_to_cache(name, "count", [*MODEL_LABELS, *([label] if label else [])], kind)
            for name, (kind, label) in kinds.items()
        }
        threading.Thread(target=self._run, args=(series, model), name="metrics", daemon=True).start()

    def _run(self, series: dict[str, Any], model: tuple[str, str]) -> None:
        failed = False
        while True:
            try:
                for (name, label), value in self.take().items():
                    series[name].add_or_update(value, [*model, *([] if label is None else [label])])
                pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])  # that lie in memory
                series[MEMORY].add_or_update(pages * os.sysconf("SC_PAGE_SIZE"), [*model, _worker_number()])
            except Exception:  # one failure must not end the counting
                if not failed:  # logged once, or it would fill the log
                    log.exception("the worker's counts were not reported")
                failed = True
            time.sleep(REPORT_SECONDS)


def _worker_number() -> str:
    """The number of the worker's socket. A worker that is started again keeps it, so its series goes on."""
    for option, value in zip(sys.argv, sys.argv[1:], strict=False):
        if option in ("--sock-name", "--port"):
            return value.rpartition(".")[2]
    return "0"
