"""The status says of what serves, not of what is on trial, since when and why it does."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from config import params
from config.paths import ROOT
from serving.deployment import registry, rollout_stage, status
from serving.deployment.rollout_stage import Phase, Stage
from serving.settings import ServerSettings
from serving.torchserve.client import LoadedVersion

PLAN = params.load(ROOT / "params.yaml").rollout


def live(version: str, default: bool, ready: int = 1) -> LoadedVersion:
    return LoadedVersion(version, f"tiny-{version}.mar", default, ready, 1, (), 8, 1)


@pytest.fixture
def on_trial(settings: ServerSettings, tmp_path, monkeypatch: pytest.MonkeyPatch) -> ServerSettings:
    """1.0 serves, 2.0 is in its shadow; the server and the registry say so too."""
    here = settings.model_copy(update={"server_home": tmp_path, "state": tmp_path / "state"})
    place = rollout_stage.place("tiny", here)
    ends = {"dataset": "tiny", "since": rollout_stage.now()}
    first = Stage(phase=Phase.SERVES, version="1.0", previous=None, why="it was the first", by="ann@here", **ends)
    trial = Stage(
        phase=Phase.SHADOW, version="2.0", previous="1.0", why="better by 5%", by="bob@here", plan=PLAN, **ends
    )
    assert rollout_stage.move(place, None, first)
    assert rollout_stage.move(place, first, trial)
    loaded = {"1.0": live("1.0", True), "2.0": live("2.0", False)}
    monkeypatch.setattr(status, "_live", lambda *_: (loaded, []))
    monkeypatch.setattr(status, "overview", lambda _: ["registry  champion    2"])
    monkeypatch.setattr(registry, "aliased", lambda *_: SimpleNamespace(version="2"))
    monkeypatch.setattr(registry, "serving_target", lambda *_: None)
    return here


def test_what_serves_is_told_with_its_own_reason_while_another_is_on_trial(on_trial: ServerSettings) -> None:
    told = status.status("tiny", on_trial).splitlines()
    assert told[1].startswith("  serves    1.0 since ")
    assert told[1].endswith("by ann@here")
    assert told[2] == "  because   it was the first"
    assert "  judged    better by 5%" in told
    assert [line for line in told if line.startswith("  next      canary: 2.0 answers 1% of the users, after ")]
    assert "  faults    none" in told


def test_a_version_without_a_worker_and_one_that_the_registry_does_not_name_are_faults(
    on_trial: ServerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "_live", lambda *_: ({"1.0": live("1.0", True, ready=0)}, []))
    monkeypatch.setattr(registry, "aliased", lambda *_: SimpleNamespace(version="3"))
    faults = [line for line in status.status("tiny", on_trial).splitlines() if line.startswith("  fault ")]
    assert faults == [
        "  fault     1.0 has no worker that is ready",
        "  fault     1.0 serves, and champion is 3; `python -m serving.deploy` brings it",
    ]
