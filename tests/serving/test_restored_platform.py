"""A platform that is lost and restored from a backup deploys, serves and knows its keys as before."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from config.paths import ROOT
from features.online.connect import StoreSettings, connect
from serving import backup
from serving.backup import restore, save
from serving.deployment import decisions, promotion, registry
from serving.deployment.registry import registry_client
from serving.edge import keys, user_keys
from serving.edge.request_log import LineLog
from serving.edge.settings import EdgeSettings
from web.keys import add_key, read_keys

REPORT = {"verdict": "PROMOTE", "reason": "a test"}
CHECKED = """
import sys, tempfile
from pathlib import Path
from serving.deployment import promotion, registry
target = promotion.serving_target("tiny")
with tempfile.TemporaryDirectory() as folder:
    registry.download_artifact(target.version, Path(folder))
print(target.version.version, target.report["verdict"])
"""


@pytest.fixture
def platform(tmp_path: Path, artifacts, empty_registry: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state with a registry, two signed promotions, keys, a served log, an online store and looks at the holdout."""
    state = tmp_path / "state"
    state.mkdir()
    shutil.copyfile(empty_registry, state / "mlflow.db")
    monkeypatch.setenv("TIDEGATE_STATE", str(state))
    for role in ("GATE", "OPERATOR"):
        monkeypatch.delenv(f"TIDEGATE_{role}_KEY")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for seed in (1, 2):
        promotion.promote("tiny", registry.register_version("tiny", artifacts[seed]), REPORT)
    add_key(state / "edge/keys.json", keys.create_key("ann")[1])
    user_keys.load_keys(EdgeSettings(home=state / "edge", user_keys=state / "keys/users"))
    log = LineLog(state / "edge/served", 10, lambda outcome, lines: None)
    log.append(b'{"request_id":"r-1"}')
    log.close()
    connect("tiny", StoreSettings(f"sqlite:///{state}/online.db"), writing=True).close()
    return state


@pytest.mark.slow
def test_a_restored_platform_may_deploy_and_knows_its_keys(platform: Path, tmp_path: Path) -> None:
    names = ("keys/gate.pem", "keys/operator.pem", "keys/trusted", "edge/keys.json", "keys/users/1.key")
    kept = {name: (platform / name).read_bytes() for name in names}
    save(platform, tmp_path / "one.tar.gz")
    registry_client().set_registered_model_tag("tiny", "later", "than the backup")
    shutil.rmtree(platform)
    restore(tmp_path / "one.tar.gz", platform)
    assert {name: (platform / name).read_bytes() for name in kept} == kept
    assert [key.user_id for key in read_keys(platform / "edge/keys.json", keys.ApiKey)] == ["ann"]
    done = subprocess.run([sys.executable, "-c", CHECKED], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.stdout.split() == ["2", "PROMOTE"], done.stderr


@pytest.mark.slow
def test_a_state_that_is_restored_at_another_place_serves_there(
    platform: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(platform, tmp_path / "one.tar.gz")
    moved = tmp_path / "other machine" / "state"
    shutil.rmtree(platform)
    restore(tmp_path / "one.tar.gz", moved)
    monkeypatch.setenv("TIDEGATE_STATE", str(moved))
    target = promotion.serving_target("tiny")
    assert target.version.version == "2"
    (tmp_path / "artifact").mkdir()
    registry.download_artifact(target.version, tmp_path / "artifact")
    assert promotion.roll_back_aliases("tiny").version.version == "1"


@pytest.mark.slow
def test_a_backup_taken_between_two_decisions_is_accepted_after_the_restore(
    platform: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This host remembers the newest decision. A backup with a newer memory than registry could not be deployed.
    copy = backup._copy_database

    def roll_back_first(path: Path, scratch: Path) -> Path:
        monkeypatch.setattr(backup, "_copy_database", copy)
        promotion.roll_back_aliases("tiny")
        return copy(path, scratch)

    monkeypatch.setattr(backup, "_copy_database", roll_back_first)
    save(platform, tmp_path / "one.tar.gz")
    restore(tmp_path / "one.tar.gz", tmp_path / "new")
    serials = decisions.memory_path().relative_to(platform)
    assert [serial for serial, _ in json.loads((tmp_path / "new" / serials).read_bytes()).values()] == [2]
    assert [serial for serial, _ in json.loads((platform / serials).read_bytes()).values()] == [3]
    monkeypatch.setenv("TIDEGATE_STATE", str(tmp_path / "new"))
    assert promotion.settle_aliases("tiny").serial == 3
