"""A repair restores what the stage says, from archives alone, and never switches to another version."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rollout_stages import PLAN, make_stage
from signed_archives import TRUSTED, signed_archive
from signing import STRANGER_SEED, line

from serving import server as command
from serving.artifact import archive
from serving.artifact.archive import PackageError
from serving.deployment import restore as module
from serving.deployment import rollout_stage
from serving.deployment.errors import SignatureError
from serving.deployment.load_version import DeployError
from serving.deployment.restore import RestoreError, restore
from serving.deployment.rollout_stage import Phase, StageError
from serving.install import install
from serving.settings import ServerSettings
from serving.torchserve import server
from serving.torchserve.client import ServerError, TorchServe

NAME = "tiny"


@dataclass
class Live:
    version: str
    default: bool
    ready: int
    workers: int = 1


class Server:
    """What TorchServe does with versions, without TorchServe."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.loaded: dict[str, Live] = {}
        self.calls: list[str] = []
        self.runs = False
        self.started_with: set[str] = set()  # archives that it may load while it starts
        self.killed: set[str] = set()  # versions whose workers die again and again
        self.on_register: Any = lambda version: None

    def start(
        self, settings: ServerSettings, verified: Callable[[], Collection[Path]], end_with_parent: bool = False
    ) -> bool:
        self.runs = True
        self.started_with = {path.name for path in verified()}
        return True

    def holds(self, default: str | None, *others: str) -> None:
        self.loaded = {version: Live(version, version == default, 1) for version in filter(None, (default, *others))}

    @property
    def default(self) -> str:
        (version,) = [live.version for live in self.loaded.values() if live.default]
        return version

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None: ...

    def describe(self, name: str) -> dict[str, Live]:
        assert name == NAME
        return dict(self.loaded)

    def register(self, file: str, name: str, **_: object) -> None:
        version = archive.read_archive(self.store / file).version
        self.on_register(version)
        self.calls.append(f"register {version}")
        self.loaded[version] = Live(version, not self.loaded, 1)

    def unregister(self, name: str, version: str) -> None:
        if self.loaded.pop(version).default and self.loaded:
            raise ServerError("the default version cannot be removed while others are loaded", 403)

    def scale(self, name: str, version: str, workers: int) -> None:
        self.loaded[version].workers = self.loaded[version].ready = workers

    def set_default(self, name: str, version: str) -> None:
        self.calls.append(f"default {version}")
        for live in self.loaded.values():
            live.default = live.version == version

    def predict(self, name: str, request: dict, version: str) -> dict:
        if version in self.killed:
            raise ServerError("its worker died", 500)
        if not self.runs:
            raise ServerError("http://127.0.0.1 cannot be reached")
        with zipfile.ZipFile(next(self.store.glob(f"*{version}.mar"))) as mar:
            cases = map(json.loads, mar.read("artifact/golden.jsonl").splitlines())
        return next(case["answer"] for case in cases if case["request"] == request) | {"model_version": version}


@pytest.fixture
def here(settings: ServerSettings, tmp_path: Path) -> ServerSettings:
    return settings.model_copy(update={"server_home": tmp_path / "home", "state": tmp_path / "state", "workers": 2})


@pytest.fixture(scope="module")
def archives(artifacts: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archives")
    for version, seed in {"1.0": 1, "2.0": 2, "10.0": 2}.items():
        signed_archive(artifacts[seed], folder / f"{NAME}-{version}.mar", NAME, version)
    return folder


@pytest.fixture
def torchserve(here: ServerSettings, monkeypatch: pytest.MonkeyPatch, archives: Path) -> Server:
    """A server with nothing loaded, and a model store with 1.0, 2.0 and 10.0. There is no registry."""
    shutil.copytree(archives, here.model_store)
    monkeypatch.setenv("TIDEGATE_TRUSTED_KEYS", TRUSTED)
    running = Server(here.model_store)
    monkeypatch.setattr(server, "start", running.start)
    monkeypatch.setattr(server, "find", lambda _: running if running.runs else None)
    monkeypatch.setattr(TorchServe, "from_settings", lambda *_, **__: running)
    return running


def write_stage(here: ServerSettings, phase: Phase, version: str, previous: str | None, **fields) -> None:
    path = rollout_stage.stage_path(NAME, here)
    new = make_stage(phase, version, previous, plan=PLAN, **fields)
    assert rollout_stage.replace_stage(path, rollout_stage.read_stage(path), new)


@pytest.mark.parametrize(
    ("phase", "default", "workers"),
    [
        (Phase.SERVES, "2.0", {"2.0": 2, "1.0": 1}),
        (Phase.SWITCH, "2.0", {"2.0": 2, "1.0": 1}),
        (Phase.SHADOW, "1.0", {"1.0": 2, "2.0": 2}),
        (Phase.CANARY, "1.0", {"1.0": 2, "2.0": 2}),
        (Phase.ROLLBACK, "1.0", {"1.0": 2, "2.0": 1}),
    ],
)
@pytest.mark.parametrize("loaded", [(), ("1.0", "2.0"), ("2.0", "1.0"), ("1.0",), ("2.0",)])
def test_the_stage_says_what_serves_and_what_is_loaded_next_to_it(
    here: ServerSettings,
    torchserve: Server,
    phase: Phase,
    default: str,
    workers: dict[str, int],
    loaded: tuple[str, ...],
) -> None:
    torchserve.holds(*loaded) if loaded else torchserve.holds(None)
    write_stage(here, phase, "2.0", "1.0")
    assert restore(NAME, here, lambda line: None) == default
    assert torchserve.default == default
    assert {version: live.workers for version, live in torchserve.loaded.items()} == workers


@pytest.mark.parametrize(
    ("phase", "failing", "remaining"),
    [
        (Phase.SERVES, "2.0", set()),  # the other one may have been rolled back
        (Phase.SWITCH, "2.0", {"1.0"}),  # which has served until now
        (Phase.SHADOW, "1.0", set()),
        (Phase.CANARY, "1.0", set()),  # the other one may answer its share only
        (Phase.ROLLBACK, "1.0", set()),
        (None, "2.0", {"1.0"}),
    ],
)
def test_no_version_that_may_not_answer_all_users_takes_the_place_of_one_that_fails(
    here: ServerSettings, torchserve: Server, phase: Phase | None, failing: str, remaining: set[str]
) -> None:
    if phase is not None:
        write_stage(here, phase, "2.0", "1.0")
    torchserve.runs, torchserve.killed = True, {failing}
    torchserve.holds(failing, "1.0" if failing == "2.0" else "2.0")
    with pytest.raises(DeployError, match="1.0 still answers" if remaining else "no version of tiny answers"):
        restore(NAME, here, lambda line: None)
    assert set(torchserve.loaded) == remaining, "the edge answers from its fallbacks"
    torchserve.killed.clear()
    if phase is not None:
        assert restore(NAME, here, lambda line: None) == failing, "its archive is still there"
        assert torchserve.default == failing


def test_what_is_installed_is_what_a_repair_restores(here: ServerSettings, torchserve: Server, archives: Path) -> None:
    write_stage(here, Phase.CANARY, "10.0", "2.0", serial=7, entry="a hash")
    torchserve.holds("2.0", "10.0")
    install(archives / f"{NAME}-1.0.mar", here, lambda line: None)
    stage = rollout_stage.read_stage(rollout_stage.stage_path(NAME, here))
    assert stage is not None
    assert {path.name for path in here.model_store.iterdir()} == {"tiny-1.0.mar", "tiny-2.0.mar"}, "no other archive"
    assert (stage.phase, stage.version, stage.previous) == (Phase.SERVES, "1.0", "2.0")
    assert (stage.serial, stage.entry) == (7, "a hash"), "what this host has seen of the registry"
    install(archives / f"{NAME}-1.0.mar", here, lambda line: None)
    assert rollout_stage.read_stage(rollout_stage.stage_path(NAME, here)) == stage, "nothing new was decided"
    torchserve.loaded.clear()
    assert restore(NAME, here, lambda line: None) == "1.0"
    assert set(torchserve.loaded) == {"1.0", "2.0"}


def test_only_verified_archives_are_loaded_again_when_another_one_is_installed(
    here: ServerSettings, torchserve: Server, archives: Path
) -> None:
    changed = here.model_store / "tiny-2.0.mar"
    changed.write_bytes(changed.read_bytes().replace(b"item-01", b"item-99"))
    lines: list[str] = []
    install(archives / f"{NAME}-1.0.mar", here, lines.append)
    assert torchserve.started_with == {"tiny-1.0.mar", "tiny-10.0.mar"}
    assert "tiny-2.0.mar was changed after it was built" in lines[0]


def test_only_verified_archives_are_loaded_again_by_the_command_that_starts_the_server(
    here: ServerSettings, torchserve: Server, artifacts, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    archive.build_archive(artifacts[2], here.model_store / "tiny-2.0.mar", NAME, "2.0")
    monkeypatch.setattr(command.settings, "load", lambda: here)
    monkeypatch.setattr(server, "describe", lambda _: "it runs")
    assert command.main(["start"]) == 0
    assert torchserve.started_with == {"tiny-1.0.mar", "tiny-10.0.mar"}
    assert "tiny-2.0.mar is not signed" in capsys.readouterr().out


@pytest.mark.parametrize("how", ["start", "install"])
def test_the_server_starts_with_no_version_if_the_one_that_serves_cannot_be_verified(
    here: ServerSettings, torchserve: Server, artifacts, archives: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    write_stage(here, Phase.SERVES, "2.0", "1.0", rollback_reason="it lists nonsense")
    archive.build_archive(artifacts[2], here.model_store / "tiny-2.0.mar", NAME, "2.0")  # which nobody signed
    signed_archive(artifacts[1], here.model_store / "other-1.0.mar", "other", "1.0")
    if how == "start":
        monkeypatch.setattr(command.settings, "load", lambda: here)
        monkeypatch.setattr(server, "describe", lambda _: "it runs")
        assert command.main(["start"]) == 0
    else:
        install(archives / f"{NAME}-10.0.mar", here, lambda line: None)
    assert torchserve.started_with == {"other-1.0.mar"}, "or the server would make another one the default"


def test_an_installation_that_is_killed_after_the_switch_is_what_a_repair_restores(
    here: ServerSettings, torchserve: Server, archives: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stage(here, Phase.SERVES, "2.0", None)
    torchserve.holds("2.0")

    def kill(name: str, version: str) -> None:
        torchserve.holds(version, "2.0")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torchserve, "set_default", kill)
        with pytest.raises(KeyboardInterrupt):
            install(archives / f"{NAME}-1.0.mar", here, lambda line: None)
    assert restore(NAME, here, lambda line: None) == "1.0"
    assert set(torchserve.loaded) == {"1.0", "2.0"}


def test_a_newer_archive_that_was_not_rolled_out_is_not_switched_to(here: ServerSettings, torchserve: Server) -> None:
    write_stage(here, Phase.SERVES, "1.0", None)
    assert restore(NAME, here, lambda line: None) == "1.0"
    assert set(torchserve.loaded) == {"1.0"}


def test_without_a_stage_what_served_last_is_restored(here: ServerSettings, torchserve: Server) -> None:
    torchserve.holds("1.0", "2.0")
    assert restore(NAME, here, lambda line: None) == "1.0"
    assert torchserve.calls == []


def test_without_a_stage_and_a_loaded_version_the_newest_archive_is_served(
    here: ServerSettings, torchserve: Server
) -> None:
    assert restore(NAME, here, lambda line: None) == "10.0"
    torchserve.loaded.clear()
    for path in here.model_store.glob("*.mar"):
        path.unlink()
    with pytest.raises(RestoreError, match="holds no archive of tiny"):
        restore(NAME, here)


def test_a_version_without_an_archive_is_not_replaced_by_another_one(here: ServerSettings, torchserve: Server) -> None:
    write_stage(here, Phase.SERVES, "3.0", "1.0")
    with pytest.raises(RestoreError, match=r"tiny 3\.0 served, but .* does not hold its archive"):
        restore(NAME, here)
    torchserve.holds("1.0", "3.0")
    lines: list[str] = []
    assert restore(NAME, here, lines.append) == "3.0", "it is still loaded"
    assert torchserve.default == "3.0"


def test_a_version_on_trial_that_cannot_be_loaded_does_not_keep_the_other_from_serving(
    here: ServerSettings, torchserve: Server
) -> None:
    def refuse(version: str) -> None:
        if version == "2.0":
            raise ServerError("its worker died", 500)

    torchserve.on_register = refuse
    write_stage(here, Phase.CANARY, "2.0", "1.0")
    lines: list[str] = []
    assert restore(NAME, here, lines.append) == "1.0"
    assert torchserve.default == "1.0"
    assert "tiny 2.0 is not loaded next to the version that serves" in lines[-1]


def test_a_rollback_that_is_ordered_during_a_repair_holds(here: ServerSettings, torchserve: Server) -> None:
    def order(version: str) -> None:
        if version == "2.0":
            write_stage(here, Phase.ROLLBACK, "2.0", "1.0")
            torchserve.holds("1.0")

    torchserve.on_register = order
    write_stage(here, Phase.SERVES, "2.0", "1.0")
    assert restore(NAME, here, lambda line: None) == "1.0"
    assert torchserve.default == "1.0"


def test_a_repair_does_not_wait_for_a_server_that_died(here: ServerSettings, torchserve: Server) -> None:
    def die(version: str) -> None:
        torchserve.runs = False

    torchserve.on_register = die
    with pytest.raises(DeployError, match="cannot be reached"):
        restore(NAME, here.model_copy(update={"load_seconds": 3600}))


def test_a_rollback_does_not_wait_for_a_deployment(
    here: ServerSettings, torchserve: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEPLOYMENT_SECONDS", 0.1)
    torchserve.holds("2.0", "1.0")
    write_stage(here, Phase.ROLLBACK, "2.0", "1.0")
    with server.lock(here, "deploy"), pytest.raises(RestoreError, match="a deployment of tiny is at work"):
        restore(NAME, here)
    assert torchserve.default == "1.0"


def test_only_verified_archives_are_loaded(
    here: ServerSettings, torchserve: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stage(here, Phase.CANARY, "2.0", "1.0")
    changed = here.model_store / "tiny-2.0.mar"
    changed.write_bytes(changed.read_bytes().replace(b"item-01", b"item-99"))
    lines: list[str] = []
    assert restore(NAME, here, lines.append) == "1.0"
    assert torchserve.started_with == {"tiny-1.0.mar", "tiny-10.0.mar"}
    assert set(torchserve.loaded) == {"1.0"}
    assert all("tiny-2.0.mar was changed after it was built" in line for line in (lines[0], lines[-1]))

    write_stage(here, Phase.SERVES, "2.0", "1.0")
    torchserve.holds(None)
    torchserve.runs = False
    with pytest.raises(PackageError, match="was changed after it was built"):
        restore(NAME, here, lambda line: None)
    assert torchserve.started_with == set(), "or the server would make the other one the default"
    assert not torchserve.loaded

    monkeypatch.setenv("TIDEGATE_TRUSTED_KEYS", line("operator", STRANGER_SEED))
    write_stage(here, Phase.SERVES, "1.0", None)
    with pytest.raises(SignatureError):
        restore(NAME, here, lambda line: None)
    assert not torchserve.loaded


def test_a_stage_that_cannot_be_read_changes_nothing_that_is_loaded(here: ServerSettings, torchserve: Server) -> None:
    path = rollout_stage.stage_path(NAME, here)
    path.parent.mkdir(parents=True)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(StageError):
        restore(NAME, here)
    assert not torchserve.loaded
    torchserve.holds("1.0", "2.0")
    assert restore(NAME, here, lambda line: None) == "1.0"
    assert torchserve.calls == []
