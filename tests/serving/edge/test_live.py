"""In front of a real TorchServe: answers are the worker's own, and killed processes come back by themselves."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from own_registry import use_registry
from running import Edge, make_settings, wait_until

from serving.deployment import promotion, reconcile, registry
from serving.deployment.archive_signature import verified_archives
from serving.edge.answer import LOGGED_FIELDS
from serving.settings import ServerSettings
from serving.torchserve import server
from serving.torchserve.client import ServerError, TorchServe

pytestmark = pytest.mark.slow

PATIENCE = 300  # seconds for Java and a worker to come up on a busy machine


@pytest.fixture(scope="module")
def deployed(
    live: ServerSettings, artifacts, tmp_path_factory: pytest.TempPathFactory, empty_registry: Path
) -> Iterator[ServerSettings]:
    with pytest.MonkeyPatch.context() as patch:
        use_registry(tmp_path_factory.mktemp("registry"), empty_registry, patch)
        version = registry.register_version("tiny", artifacts[1])
        promotion.promote("tiny", version, {"verdict": "PROMOTE"})
        reconcile.deploy("tiny", live)
        yield live


@contextmanager
def edge_in_front_of(deployed: ServerSettings, artifact: Path, home: Path) -> Iterator[Edge]:
    own = {
        "management": deployed.management_url,
        "token_file": deployed.key_file,
        "artifact": artifact,
        "deadline_ms": 10_000,
        "popular_seconds": 2,
    }
    edge = Edge(make_settings(home, deployed.inference_url, **own))
    try:
        yield edge
    finally:
        edge.close()


@pytest.fixture
def edge(deployed: ServerSettings, artifacts, tmp_path: Path) -> Iterator[Edge]:
    with edge_in_front_of(deployed, artifacts[1], tmp_path) as edge:
        wait_until(lambda: edge.service.pipeline.fallback.popular is not None, PATIENCE)
        yield edge


def ask(edge: Edge, body: dict) -> dict:
    got = edge.ask(body)
    assert got.status_code == 200
    return got.json()


def recovers(edge: Edge, user: str) -> dict:
    """A personalized answer of TorchServe, sooner or later; until then, an answer every time."""
    history = [{"item_id": "item-01", "event_time": "2026-01-01T00:00:00Z"}]
    deadline = time.monotonic() + PATIENCE
    for number in range(100_000):
        answer = ask(edge, {"user_id": f"{user}-{number}", "history": history, "k": 3})
        if answer["source"] == "personalized":
            return answer
        assert answer["source"] in ("popular", "static")
        assert time.monotonic() < deadline, answer
        time.sleep(0.2)
    raise AssertionError("unreachable")


def test_the_answer_is_the_workers_own(edge: Edge, artifacts) -> None:
    for line in (artifacts[1] / "golden.jsonl").read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        answer = ask(edge, case["request"] | {"request_id": "golden"})
        expected = case["answer"] | {"model_version": "1.0", "request_id": "golden"}
        shown = expected.keys() - {*LOGGED_FIELDS, "numeric_ids"}  # for the served log and the edge only
        assert {name: answer[name] for name in shown} == {name: expected[name] for name in shown}
        (line,) = [one for one in edge.served() if one["items"] == [item["item_id"] for item in expected["items"]]]
        assert (line["computed_on"], line["inputs"] is None) == (expected["computed_on"], False)
    assert edge.service.pipeline.version == "1.0"


def test_a_killed_worker_and_a_killed_server_come_back_by_themselves(edge: Edge, deployed: ServerSettings) -> None:
    recovers(edge, "before")
    with TorchServe.from_settings(deployed) as client:
        (worker,) = client.describe("tiny")["1.0"].pids
    os.kill(worker, 9)
    recovers(edge, "worker")

    os.kill(server.find(deployed).pid, 9)
    answer = ask(edge, {"history": [{"item_id": "item-02", "event_time": "2026-01-01T00:00:00Z"}], "k": 4})
    assert (answer["source"], len(answer["items"])) == ("popular", 4)
    server.start(deployed, lambda: verified_archives(deployed))  # its tokens are new
    recovers(edge, "server")


def test_an_expired_token_is_renewed(deployed: ServerSettings, artifacts, tmp_path: Path) -> None:
    keys = json.loads(deployed.key_file.read_text(encoding="utf-8"))
    keys["inference"]["key"] = "expired1"  # as after its hour: the file holds a token that the server refuses
    deployed.key_file.chmod(0o600)
    deployed.key_file.write_text(json.dumps(keys), encoding="utf-8")
    with edge_in_front_of(deployed, artifacts[1], tmp_path) as edge:
        recovers(edge, "token")


def test_edge_and_worker_refuse_the_same_request(edge: Edge, deployed: ServerSettings) -> None:
    with TorchServe.from_settings(deployed) as client, pytest.raises(ServerError):
        client.predict("tiny", {"k": 0})
    got = edge.ask({"k": 0})
    assert (got.status_code, got.json()["field"]) == (400, "k")
