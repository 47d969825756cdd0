"""A platform that has answered: real products, a registry, an online store, and an edge before a worker's recommender."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_torchserve import FakeTorchServe, _write
from running import Edge, make_settings, wait_until
from small_pipeline import inside

from config import params
from data.consent import PERSONALIZATION
from experiments.gating import judgment
from features import materialize
from features.online.connect import connect, read_settings
from serving.artifact.archive import build_archive
from serving.deployment import promotion
from serving.edge.consent import OnlineProfileReader
from serving.worker.recommender import Recommender
from serving.worker.users import StoreLookup

DATASET, LABEL, VERSION = "demo", "two_tower", "1.0"
DENIED = {"user_id": "u000002", "event_time": "2026-01-01T00:00:00Z", "consent": {PERSONALIZATION: False}}


class Worker(FakeTorchServe):
    """Answers as a worker does: with an artifact and the online store."""

    def __init__(self, recommender: Recommender) -> None:
        self.recommender = recommender
        super().__init__()

    async def _recommend(self, path: str, body: dict, writer: asyncio.StreamWriter) -> None:
        (answer,) = self.recommender.recommend([body])
        _write(writer, 200, answer)


@contextmanager
def platform(pipeline: Path, folder: Path) -> Iterator[Path]:
    """A copy of the products with one promoted version and a filled store; the current folder."""
    shutil.copytree(pipeline, folder, dirs_exist_ok=True)
    with inside(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIDEGATE_STORE", f"sqlite:///{folder}/state/online.db")
        patch.setenv("TIDEGATE_MANAGEMENT_PORT", "9")  # where nothing is
        patch.delenv("TIDEGATE_EDGE_USER_SECRET", raising=False)
        patch.setenv("TIDEGATE_EDGE_USER_KEYS", "edge-keys")  # relative: tests break copies of them
        version = judgment.register(DATASET, LABEL)
        promotion.promote(DATASET, version, {"verdict": "PROMOTE", "reason": "better by 5%", "label": LABEL})
        (folder / "consent.jsonl").write_text(json.dumps(DENIED) + "\n", encoding="utf-8")
        assert materialize.main([]) == materialize.main(["--events", "consent.jsonl"]) == 0
        yield folder


@contextmanager
def edge(folder: Path) -> Iterator[tuple[Edge, Worker]]:
    """An edge that keeps requests, and the worker behind it."""
    artifact = folder / "out/serving/artifacts" / LABEL
    recommender = Recommender.load(artifact, VERSION)
    recommender.lookup = StoreLookup(lambda: connect(DATASET, read_settings()))
    worker = Worker(recommender)
    archive = folder / f"{DATASET}-{VERSION}.mar"
    build_archive(artifact, archive, DATASET, VERSION)
    own = {"dataset": DATASET, "artifact": archive, "keep_requests": True, "deadline_ms": 20_000}
    running = Edge(make_settings(folder / "edge", worker.url, **own), OnlineProfileReader.from_environment(DATASET))
    try:
        wait_until(lambda: running.service.pipeline.fallback.popular is not None)
        yield running, worker
    finally:
        running.close()
        worker.close()


def log(folder: Path) -> Path:
    """The one file of the served log."""
    (path,) = (folder / "edge/served").iterdir()
    return path


def rewrite(folder: Path, request_id: str, change: Callable[[dict], dict]) -> None:
    """Change the line of a request."""
    lines = [json.loads(line) for line in log(folder).read_text(encoding="utf-8").splitlines()]
    log(folder).write_text(
        "".join(json.dumps(change(one) if one["request_id"] == request_id else one) + "\n" for one in lines),
        encoding="utf-8",
    )


def chosen(folder: Path) -> params.Params:
    return params.load(folder / "params.yaml")
