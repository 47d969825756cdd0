"""An answer of a real TorchServe, through the edge, is traced and comes back byte for byte from another clone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import Edge, make_settings, wait_until
from served_platform import DATASET, platform

from benchmarks._load import free_ports
from experiments import impact, replay, trace
from serving.deployment import reconcile
from serving.edge.consent import OnlineProfileReader
from serving.settings import PORTS, load, variable
from serving.torchserve import server

pytestmark = pytest.mark.slow

REQUESTS = {"live": {"user_id": "u000001", "k": 5}, "refused": {"user_id": "u000002", "k": 5}, "nobody": {"k": 3}}


@pytest.fixture(scope="module")
def answered(pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, bytes]]]:
    """Bodies by request id, of an edge before a TorchServe that the registry's champion was deployed to; it runs."""
    with platform(pipeline, tmp_path_factory.mktemp("live")) as folder, pytest.MonkeyPatch.context() as patch:
        for field, port in zip(PORTS, free_ports(len(PORTS)), strict=True):
            patch.setenv(variable(field), str(port))
        patch.setenv("TIDEGATE_SERVER_HOME", str(folder / "torchserve"))
        settings = load()
        reconcile.deploy(DATASET, settings)
        try:
            yield folder, _answers(folder, settings)
        finally:
            server.stop(settings)


def _answers(folder: Path, settings) -> dict[str, bytes]:
    own = {"dataset": DATASET, "management": settings.management_url, "token_file": settings.key_file}
    edge = Edge(
        make_settings(folder / "edge", settings.inference_url, **own, deadline_ms=20_000),
        OnlineProfileReader.from_environment(DATASET),
    )
    try:
        wait_until(lambda: edge.service.pipeline.fallback.popular is not None, 120)
        return {name: edge.ask(body | {"request_id": name}).content for name, body in REQUESTS.items()}
    finally:
        edge.close()


@pytest.mark.parametrize("name", REQUESTS)
def test_a_live_answer_comes_back_byte_for_byte_without_the_store(
    answered, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, bodies = answered
    for product in ("out/data", "out/features/test", "edge", "edge-keys"):
        shutil.copytree(folder / product, tmp_path / product)
    shutil.copyfile(folder / "params.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIDEGATE_STORE", f"sqlite:///{tmp_path}/none.db")

    assert replay.main([name, "--served", "edge/served", "--body", "body.json"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"replay of {name}: identical bytes\n"), printed
    assert (tmp_path / "body.json").read_bytes() == bodies[name]


def test_a_live_answer_is_traced_to_its_events_and_an_event_forward_to_the_live_endpoint(answered, capsys) -> None:
    folder, _ = answered
    served = ["--json", "--served", str(folder / "edge/served")]
    assert trace.main(["live", *served]) == 0
    back = json.loads(capsys.readouterr().out)
    assert back["answer"]["source"] == "personalized"
    assert back["events"]["as the answer read them"] == "yes, by their digest"

    assert impact.main(["--event", back["events"]["rows"][-1]["event_id"], *served]) == 0
    forward = json.loads(capsys.readouterr().out)
    assert forward["versions"]["live"] == ["1 (default)"]
    assert [row["request_id"] for row in forward["answers that could read it"]["rows"]] == ["live"]
