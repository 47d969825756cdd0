"""A real TorchServe behind a real edge: kill -9 at each step of a version's life, while a client asks ten times a second."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from own_registry import use_registry
from running import Edge, make_settings, wait_until

from config.paths import ROOT
from serving import deploy
from serving.deployment import promotion, reconcile, registry, rollout_stage
from serving.deployment.rollout_stage import Phase
from serving.settings import ServerSettings
from serving.torchserve import server
from serving.torchserve.client import TorchServe

pytestmark = pytest.mark.slow

NAME = "tiny"
PLAN = {
    "shadow_share": 0.5,
    "shadow_seconds": 0,
    "shadow_requests": 3,
    "canary": [0.5],
    "bake_seconds": 0,
    "min_requests": 3,
    # Wide: what is tried here is what kills leave, and the machine may be busy with other things.
    "limits": {"alpha": 0.001, "error_excess": 0.5, "p99_ratio": 1000, "overlap": 0},
}
REQUEST = {
    "history": [{"item_id": "item-01", "event_time": "2026-01-01T00:00:00Z"}],
    "time": "2026-02-01T00:00:00Z",
    "k": 4,
}
PAUSE = 0.1


@pytest.fixture(scope="module")
def deployed(
    settings: ServerSettings, artifacts: dict[int, Path], tmp_path_factory: pytest.TempPathFactory, empty_registry: Path
) -> Iterator[ServerSettings]:
    """The first version serves."""
    with pytest.MonkeyPatch.context() as patch:
        use_registry(tmp_path_factory.mktemp("registry"), empty_registry, patch)
        promotion.promote(
            NAME, registry.register_version(NAME, artifacts[1]), {"verdict": "PROMOTE", "reason": "first"}
        )
        try:
            assert reconcile.deploy(NAME, settings).version == "1.0"
            yield settings
        finally:
            server.stop(settings)


@pytest.fixture(scope="module")
def edge(deployed: ServerSettings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    home = tmp_path_factory.mktemp("edge")
    more = {"token_file": deployed.key_file, "rollout": rollout_stage.stage_path(NAME, deployed), "cache": "off"}
    edge = Edge(make_settings(home, deployed.inference_url, management=deployed.management_url, **more))
    wait_until(lambda: edge.service.pipeline.fallback.popular is not None)
    yield edge
    edge.close()


@contextmanager
def asking(edge: Edge) -> Iterator[list[dict]]:
    """Ask ten times a second during the block; the answers so far."""
    answers: list[dict] = []
    faults: list[BaseException] = []
    done = threading.Event()

    def ask() -> None:
        for number in itertools.count():
            if done.wait(PAUSE):
                return
            try:
                answers.append(edge.answer(REQUEST | {"user_id": f"user-{number % 40}"}))
            except BaseException as fault:
                faults.append(fault)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        done.set()
        thread.join()
    assert not faults, faults[0]


@pytest.fixture
def walk(deployed: ServerSettings) -> Iterator[Callable[..., list[str]]]:
    """Run a verb until it ends, killed at each of its steps once; the steps."""
    command = [sys.executable, str(ROOT / "tests" / "support" / "killed.py")]
    runner = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )

    def walk(verb: str, **more: Any) -> list[str]:
        killed: list[str] = []
        while True:
            order = {"verb": verb, "before": killed, "settings": json.loads(deployed.model_dump_json()), **more}
            runner.stdin.write(json.dumps(order) + "\n")
            runner.stdin.flush()
            result = json.loads(runner.stdout.readline())
            if "killed" not in result:
                assert result["ended"] is None
                return killed
            killed.append(result["killed"])

    yield walk
    runner.stdin.close()
    runner.wait(30)
    runner.stdout.close()


def serves(deployed: ServerSettings, version: str) -> bool:
    """Whether everything says that a version serves: TorchServe, the stage and the registry."""
    standing = rollout_stage.read_stage(rollout_stage.stage_path(NAME, deployed))
    with TorchServe.from_settings(deployed) as client:
        default = [live.version for live in client.describe(NAME).values() if live.default]
    champion = registry.version_by_alias(NAME, "champion")
    return (default, standing.phase, standing.version, champion.version) == (
        [version],
        Phase.SERVES,
        version,
        rollout_stage.registered_version(version),
    )


def answering(edge: Edge) -> str:
    return edge.answer(REQUEST)["model_version"]


def items(answer: dict) -> list[tuple]:
    return [(item["item_id"], item["score"]) for item in answer["items"]]


def test_a_version_killed_at_every_step_of_its_life_converges_and_no_client_notices(
    deployed: ServerSettings, edge: Edge, walk, artifacts: dict[int, Path]
) -> None:
    with asking(edge) as answers:
        steps = {"register": walk("register", artifact=str(artifacts[2]))}
        assert {answer["model_version"] for answer in answers} == {"1.0"}
        steps["rollout"] = walk("rollout", plan=PLAN)
        assert serves(deployed, "2.0")
        steps["rollback"] = walk("rollback")
        assert serves(deployed, "1.0")
        promotion.roll_back_aliases(NAME)
        steps["deploy"] = walk("deploy")
        assert serves(deployed, "2.0")
    with TorchServe.from_settings(deployed) as client:
        alone = {version: items(client.predict(NAME, REQUEST, version)) for version in ("1.0", "2.0")}
    assert alone["1.0"] != alone["2.0"]
    kills = sum(map(len, steps.values()))
    assert len(answers) > kills  # it did ask all the while
    for answer in answers:
        assert answer["source"] == "personalized", answer
        assert items(answer) == alone[answer["model_version"]]
    assert {answer["bucket"] for answer in answers} >= {"canary", "champion", None}
    print(f"{kills} kills, {len(answers)} answers: {steps}")
    assert {"create_model_version tiny", "set_registered_model_alias tiny champion 2"} <= set(steps["register"])
    assert {
        "register tiny-2.0.mar tiny",
        "amid register tiny-2.0.mar",
        "stage shadow 0",
        "history shadow",
        "stage canary 0.5",
        "stage switch 0",
        "set_default tiny 2.0",
        "stage serves 0",
        "history serves",
    } <= set(steps["rollout"])
    assert {"stage rollback 0", "set_default tiny 1.0", "set_registered_model_alias tiny champion 1"} <= set(
        steps["rollback"]
    )
    assert {"stage switch 0", "set_default tiny 2.0", "stage serves 0"} <= set(steps["deploy"])
    events = rollout_stage.read_events(rollout_stage.stage_path(NAME, deployed))
    assert [(event.event, event.before, event.after) for event in events] == [
        ("serves", None, "1.0"),
        ("shadow", "1.0", "2.0"),
        ("canary 50%", "1.0", "2.0"),
        ("switch", "1.0", "2.0"),
        ("serves", "1.0", "2.0"),
        ("rollback", "2.0", "1.0"),
        ("serves", "2.0", "1.0"),
        ("switch", "1.0", "2.0"),
        ("serves", "1.0", "2.0"),
    ]


def test_the_next_answer_follows_a_rollback_by_command_and_a_second_one_does_not_undo_it(
    deployed: ServerSettings, edge: Edge, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(deploy.environment, "load", lambda: deployed)
    before = answering(edge)
    deploy.roll_back(NAME, deployed, "a look at the way back", force=True)
    after = answering(edge)
    assert after != before
    assert deploy.main(["--dataset", NAME]) == 0  # ends what the order began
    assert answering(edge) == after
    assert registry.version_by_alias(NAME, "champion").version == after.partition(".")[0]
    assert deploy.main(["--dataset", NAME, "--rollback"]) == 0
    assert "nothing changed: tiny" in capsys.readouterr().out
    assert answering(edge) == after
    assert deploy.main(["--dataset", NAME, "--rollback", "--force"]) == 0
    assert answering(edge) == before
    capsys.readouterr()
    assert deploy.main(["--dataset", NAME, "--history"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines[-4:]] == ["rollback", "serves", "rollback", "serves"]
    assert lines[-4].endswith("a look at the way back")
