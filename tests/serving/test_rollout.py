"""A rollout takes no step that is not recorded, and says that a version serves only if the server says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from rollout_stages import PLAN, make_stage
from stub_server import StubServer

from serving import rollout
from serving.deployment import promotion, rollout_stage
from serving.deployment.errors import DeployError, RegistryError
from serving.deployment.rollout_stage import Phase, RolloutStage
from serving.settings import ServerSettings

QUICK = PLAN.model_copy(update={"canary": [0.5]})


@pytest.fixture
def stub() -> StubServer:
    return StubServer()


@pytest.fixture
def host(tmp_path: Path, stub: StubServer, monkeypatch: pytest.MonkeyPatch) -> ServerSettings:
    """2.0 answers half of the users and may take its last step; a deployment then makes it serve."""
    settings = ServerSettings(server_home=tmp_path / "home", state=tmp_path / "state")
    path = rollout_stage.stage_path("tiny", settings)
    rollout_stage.replace_stage(path, None, make_stage(Phase.CANARY, plan=QUICK, share=0.5))

    def deploy(*_: object) -> None:
        stage = rollout_stage.read_stage(path)
        if stage is not None and stage.phase is Phase.SWITCH:
            rollout_stage.replace_stage(path, stage, make_stage(Phase.SERVES))

    monkeypatch.setattr(rollout, "_reconcile", deploy)
    monkeypatch.setattr(rollout, "POLL_SECONDS", 0)
    monkeypatch.setattr(rollout, "TorchServe", stub)
    monkeypatch.setattr(rollout_stage, "missing_for_next_step", lambda *_: [])
    return settings


def unavailable() -> RegistryError:
    error = RegistryError("MLflow refuses get_registered_model: no connection")
    error.__cause__ = OSError("no connection")
    return error


def test_a_step_waits_while_the_registry_is_away(host: ServerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    path, phases = rollout_stage.stage_path("tiny", host), []
    answers: list[Exception | None] = [unavailable(), unavailable(), None]

    def record(_: str, following: RolloutStage) -> RolloutStage:
        phases.append(rollout_stage.read_stage(path).phase)  # type: ignore[union-attr]
        if error := answers.pop(0):
            raise error
        return following

    monkeypatch.setattr(promotion, "record_rollout_step", record)
    lines: list[str] = []
    assert rollout.rollout("tiny", host, QUICK, lines.append).version == "2.0"
    assert phases == [Phase.CANARY] * 3, "no step was taken before it was recorded"
    assert "the next step waits for the registry: MLflow refuses" in lines[0]


def test_a_step_that_the_registry_refuses_ends_the_command(host: ServerSettings, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise RegistryError("decision 2, which this host has seen, is gone in the registry")

    monkeypatch.setattr(promotion, "record_rollout_step", refuse)
    with pytest.raises(RegistryError, match="is gone in the registry"):
        rollout.rollout("tiny", host, QUICK)


def test_a_rollout_whose_version_does_not_serve_at_its_end_fails(
    host: ServerSettings, stub: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(promotion, "record_rollout_step", lambda _, following: following)
    stub.default = "1.0"
    with pytest.raises(DeployError, match=r"tiny 2\.0 does not serve: 1\.0 is the default"):
        rollout.rollout("tiny", host, QUICK, lambda _: None)
