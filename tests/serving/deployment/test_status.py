"""The status describes the version that serves, since when and why; not the one on trial."""

from __future__ import annotations

from pathlib import Path

import pytest
from rollout_stages import PLAN, make_stage

from serving.deployment import promotion, rollout_stage, status
from serving.deployment.rollout_stage import Phase
from serving.settings import ServerSettings
from serving.torchserve.client import LoadedVersion


def live(version: str, default: bool, ready: int = 1) -> LoadedVersion:
    return LoadedVersion(version, f"tiny-{version}.mar", default, ready, 1, (), 8, 1)


@pytest.fixture
def on_trial(settings: ServerSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServerSettings:
    """1.0 serves and 2.0 is in its shadow, in the stage, on the server and in the registry."""
    settings = settings.model_copy(update={"server_home": tmp_path, "state": tmp_path / "state"})
    path = rollout_stage.stage_path("tiny", settings)
    first = make_stage(Phase.SERVES, "1.0", None, reason="it was the first", by="ann@here")
    trial = make_stage(Phase.SHADOW, reason="better by 5%", by="bob@here", plan=PLAN)
    assert rollout_stage.replace_stage(path, None, first)
    assert rollout_stage.replace_stage(path, first, trial)
    loaded = {"1.0": live("1.0", True), "2.0": live("2.0", False)}
    monkeypatch.setattr(status, "_live_versions", lambda *_: (loaded, []))
    monkeypatch.setattr(status, "registry_lines", lambda _: ["registry  champion    2"])
    monkeypatch.setattr(status, "version_number", lambda *_: "2")
    monkeypatch.setattr(promotion, "serving_target", lambda *_: None)
    return settings


def test_the_serving_version_is_shown_with_its_own_reason_while_another_is_on_trial(on_trial: ServerSettings) -> None:
    lines = status.deployment_status("tiny", on_trial).splitlines()
    assert lines[1].startswith("  serves    1.0 since ")
    assert lines[1].endswith("by ann@here")
    assert lines[2] == "  reason    it was the first"
    assert "  verdict   better by 5%" in lines
    assert [line for line in lines if line.startswith("  next      canary: 2.0 answers 1% of the users, after ")]
    assert "  faults    none" in lines


def test_a_version_without_a_worker_and_one_that_the_registry_does_not_name_are_faults(
    on_trial: ServerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "_live_versions", lambda *_: ({"1.0": live("1.0", True, ready=0)}, []))
    monkeypatch.setattr(status, "version_number", lambda *_: "3")
    faults = [line for line in status.deployment_status("tiny", on_trial).splitlines() if line.startswith("  fault ")]
    assert faults == [
        "  fault     1.0 has no worker that is ready",
        "  fault     1.0 serves, but the champion is 3; `python -m serving.deploy` deploys it",
    ]


def test_the_history_reads_as_a_table(on_trial: ServerSettings) -> None:
    header, first, trial = status.history_table("tiny", on_trial).splitlines()
    assert header.split() == ["when", "(UTC)", "event", "from", "to", "result", "by", "reason"]
    assert first.split()[2:] == ["serves", "-", "1.0", "done", "ann@here", "it", "was", "the", "first"]
    assert trial.split()[2:] == ["shadow", "1.0", "2.0", "begun", "bob@here", "better", "by", "5%"]
