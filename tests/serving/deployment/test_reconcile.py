"""The newest decision wins: a rollback that a host ordered is recorded unless the registry holds a newer decision."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import tiny_artifact
from rollout_stages import PLAN, make_stage
from stub_server import StubServer

from config.paths import ROOT
from serving import deploy
from serving.artifact.archive import build_archive
from serving.deployment import decisions, policy, promotion, reconcile, registry, rollout_stage
from serving.deployment.errors import DeployError
from serving.deployment.registry import CHAMPION, PREVIOUS, RegistryError
from serving.deployment.rollout_stage import Phase, RolloutStage
from serving.deployment.serving_check import check_serves
from serving.settings import ServerSettings
from serving.torchserve.client import ServerError

pytestmark = pytest.mark.slow  # each test takes little, all of them many seconds

PROMOTED = {"verdict": "PROMOTE", "reason": "better by 5%"}
REASON = "the champion shows nothing at all"


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> StubServer:
    stub = StubServer()
    for module in (reconcile, deploy):
        monkeypatch.setattr(module, "TorchServe", stub)
    return stub


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServerSettings:
    """A host with a state of its own."""
    monkeypatch.setenv("TIDEGATE_STATE", str(tmp_path / "state"))
    settings = ServerSettings(server_home=tmp_path / "home", state=tmp_path / "state")
    monkeypatch.setattr(deploy.environment, "load", lambda: settings)
    return settings


@pytest.fixture
def served(host: ServerSettings, stub: StubServer, signed: tuple[str, str]) -> ServerSettings:
    """Version 2 was promoted and serves, version 1 is kept."""
    write_stage(host, make_stage(Phase.SERVES))
    return host


def write_stage(host: ServerSettings, stage: RolloutStage) -> None:
    """Write a stage that has seen all decisions up to now."""
    log, path = decisions.read_log("tiny"), rollout_stage.stage_path("tiny", host)
    seen = stage.model_copy(update={"serial": log.last_serial, "entry": log.last_hash})
    assert rollout_stage.replace_stage(path, rollout_stage.read_stage(path), seen)


def stage_of(host: ServerSettings) -> RolloutStage:
    stage = rollout_stage.read_stage(rollout_stage.stage_path("tiny", host))
    assert stage is not None
    return stage


def order(host: ServerSettings) -> None:
    """Order a rollback on the host, as the edge does: the registry is not asked."""
    rollout_stage.order_rollback(rollout_stage.stage_path("tiny", host), "it lists nonsense", "edge@host")


def aliases() -> tuple[str | None, str | None]:
    return registry.version_number("tiny", CHAMPION), registry.version_number("tiny", PREVIOUS)


def test_an_ordered_rollback_is_recorded_as_it_was_ordered(served: ServerSettings, stub: StubServer) -> None:
    order(served)
    since = stage_of(served).since
    assert reconcile.settle_rollback("tiny", served) == "1.0"
    assert (aliases(), stub.default) == (("1", "2"), "1.0")
    last = decisions.read_log("tiny").last()
    assert (last.action, last.reason, last.decided_by) == ("rollback", "it lists nonsense", "edge@host")
    assert last.decided_at == since.isoformat()
    stage = stage_of(served)
    assert (stage.phase, stage.version, stage.previous, stage.serial) == (Phase.SERVES, "1.0", "2.0", 3)
    assert reconcile.settle_rollback("tiny", served) is None
    with pytest.raises(RegistryError, match="it lists nonsense"):
        promotion.promote("tiny", "2", PROMOTED)


def test_a_rollback_ordered_while_an_override_stands_ends_the_override(served: ServerSettings) -> None:
    promotion.override("tiny", "1", REASON)
    write_stage(served, make_stage(Phase.SERVES, "1.0", "2.0"))
    order(served)
    assert reconcile.settle_rollback("tiny", served) == "2.0"
    assert aliases()[0] == "2"
    assert promotion.standing_override("tiny") is None
    assert promotion.serving_target("tiny").version.version == "2"


@pytest.fixture
def third(served: ServerSettings, tmp_path: Path) -> str:
    """A third version, which nobody has promoted yet."""
    return registry.register_version("tiny", tiny_artifact.write(tmp_path / "third", 7))


def test_a_rollback_goes_back_to_what_served_here_and_leaves_another_champion(
    served: ServerSettings, stub: StubServer, third: str
) -> None:
    promotion.promote("tiny", third, PROMOTED)  # by the nightly gate; this host has not deployed it
    order(served)
    lines: list[str] = []
    assert reconcile.settle_rollback("tiny", served, lines.append) == "1.0"
    assert [line for line in lines if f"holds on this host only: the promotion of {third} by" in line]
    assert (stub.default, aliases()) == ("1.0", (third, "1")), "and nobody goes back to what was removed"
    assert promotion.serving_target("tiny").version.version == third
    with pytest.raises(RegistryError, match="rolled back on"):
        promotion.promote("tiny", "2", PROMOTED)


@pytest.mark.parametrize("decided", ["rollback", "override"])
def test_a_rollback_on_a_host_that_lags_behind_records_nothing(
    served: ServerSettings, stub: StubServer, third: str, decided: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if decided == "rollback":  # on another host; then the gate found a better one
        promotion.roll_back_aliases("tiny", "it lists nonsense")
        promotion.promote("tiny", third, PROMOTED)
    else:
        promotion.override("tiny", third, REASON)
    before = aliases(), decisions.read_log("tiny").last_hash
    assert deploy.main(["--dataset", "tiny", "--rollback"]) == 0
    assert f"holds on this host only: the {'promotion' if decided == 'rollback' else decided} of {third}" in (
        capsys.readouterr().out
    )
    assert (aliases(), decisions.read_log("tiny").last_hash) == before
    assert (stub.default, stage_of(served).phase, stage_of(served).version) == ("1.0", Phase.SERVES, "1.0")
    assert promotion.serving_target("tiny").version.version == third


def test_a_rollback_by_force_replaces_another_champion(served: ServerSettings, third: str) -> None:
    promotion.promote("tiny", third, PROMOTED)
    rollout_stage.order_rollback(rollout_stage.stage_path("tiny", served), "it lists nonsense", "me@host", force=True)
    assert reconcile.settle_rollback("tiny", served) == "1.0"
    assert aliases() == ("1", "2")


def test_a_decision_that_is_newer_than_the_ordered_rollback_wins_and_this_is_said(served: ServerSettings) -> None:
    order(served)
    promotion.override("tiny", "2", REASON)  # on another host: this one has not seen it
    lines: list[str] = []
    assert reconcile.settle_rollback("tiny", served, lines.append) == "1.0"
    assert aliases()[0] == "2"
    assert [line for line in lines if "gives way to the newer override of 2" in line]
    assert (stage_of(served).phase, stage_of(served).version) == (Phase.SERVES, "1.0"), "only a deployment goes forward"


def test_a_step_of_the_rollout_that_was_rolled_back_is_not_newer(served: ServerSettings) -> None:
    write_stage(served, make_stage(Phase.SHADOW))
    order(served)
    step = make_stage(Phase.CANARY, share=0.1, since=stage_of(served).since + timedelta(seconds=1))
    assert promotion.record_rollout_step("tiny", step) is not None  # the command lost the race against the edge
    assert reconcile.settle_rollback("tiny", served) == "1.0"
    assert aliases() == ("1", "2")


def test_a_recorded_rollback_is_recorded_once(served: ServerSettings) -> None:
    order(served)
    promotion.roll_back_aliases("tiny", ordered=stage_of(served))  # killed before the stage was written
    lines: list[str] = []
    assert reconcile.settle_rollback("tiny", served, lines.append) == "1.0"
    assert (decisions.read_log("tiny").last_serial, lines) == (3, [])


def test_a_rollback_stays_ordered_while_the_registry_is_away(
    served: ServerSettings, stub: StubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    with monkeypatch.context() as away:
        away.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/no such folder/mlflow.db")
        (tmp_path / "no such folder").write_text("", encoding="utf-8")
        assert deploy.main(["--dataset", "tiny", "--rollback", "--reason", "it lists nonsense"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "the rollback stays ordered on this host, but it is not complete" in line
        assert deploy.main(["--dataset", "tiny", "--settle"]) == 2
    assert (stub.default, stage_of(served).phase) == ("1.0", Phase.ROLLBACK)
    assert aliases() == ("2", "1")
    assert deploy.main(["--dataset", "tiny", "--settle"]) == 0
    assert "completed the rollback: tiny 1.0 serves" in capsys.readouterr().out
    assert aliases() == ("1", "2")


def test_no_command_says_that_a_rollback_is_done_if_the_server_does_not(
    served: ServerSettings, stub: StubServer
) -> None:
    stub.is_up = False
    with pytest.raises(ServerError):
        deploy.roll_back("tiny", served, "it lists nonsense")
    assert stage_of(served).phase is Phase.ROLLBACK


def test_a_version_serves_only_if_it_is_the_default_and_answers(stub: StubServer, monkeypatch) -> None:
    check_serves("tiny", "2.0", stub, 0)
    with pytest.raises(DeployError, match=r"tiny 1\.0 does not serve: 2\.0 is the default"):
        check_serves("tiny", "1.0", stub, 0)
    monkeypatch.setattr(stub, "predict", lambda *_: {"model_version": "1.0"})
    with pytest.raises(DeployError, match=r"tiny 2\.0 is the default, but it does not serve: 1\.0 answered"):
        check_serves("tiny", "2.0", stub, 0)


@pytest.mark.parametrize("how", ["older", "made anew"])
def test_a_deployment_refuses_a_registry_without_the_decision_that_this_host_follows(
    served: ServerSettings, artifacts, how: str
) -> None:
    decisions.memory_path().unlink()  # the stage remembers it, too
    mlflow = registry.registry_client()
    if how == "older":
        mlflow.delete_registered_model_tag("tiny", decisions.entry_tag(2))
        mlflow.set_registered_model_alias("tiny", CHAMPION, "1")
        mlflow.delete_registered_model_alias("tiny", PREVIOUS)
    else:
        mlflow.delete_registered_model("tiny")
        promotion.promote("tiny", registry.register_version("tiny", artifacts[1]), PROMOTED)
    for command in (reconcile.deploy, with_rollback(reconcile.deploy), reconcile.settle_rollback):
        with pytest.raises(RegistryError, match=r"decision 2, which this host has seen, is gone .*--override VERSION"):
            command("tiny", served)


def with_rollback(command):
    def ordered(dataset: str, host: ServerSettings) -> object:
        order(host)
        return command(dataset, host)

    return ordered


def test_an_override_on_this_host_accepts_the_other_registry_and_ends_an_older_rollback(
    served: ServerSettings, artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    order(served)
    registry.registry_client().delete_registered_model("tiny")
    version = registry.register_version("tiny", artifacts[1])
    deployed: list[str] = []
    monkeypatch.setattr(deploy, "_deploy", lambda *_: deployed.append("1.0") or "1.0")
    assert deploy.main(["--dataset", "tiny", "--override", version, "--reason", REASON]) == 0
    log, stage = decisions.read_log("tiny"), stage_of(served)
    assert (stage.phase, stage.serial, stage.entry) == (Phase.SERVES, 1, log.last_hash)
    assert deployed


def test_a_command_fails_if_another_version_serves_than_it_wanted(two, host, stub, monkeypatch, capsys) -> None:
    promotion.promote("tiny", two[0], PROMOTED)
    monkeypatch.setattr(deploy, "_deploy", lambda *_: "1.0")
    assert deploy.main(["--dataset", "tiny", "--override", two[1], "--reason", REASON]) == 2
    assert "tiny 1.0 serves, not 2: somebody else decided meanwhile" in capsys.readouterr().err


def test_a_second_rollback_on_a_host_that_never_deployed_needs_force(two, host, stub, monkeypatch, capsys) -> None:
    for version in two:
        promotion.promote("tiny", version, PROMOTED)
    monkeypatch.setattr(deploy, "_deploy", lambda *_: "1.0")
    assert deploy.main(["--dataset", "tiny", "--rollback"]) == 0
    assert aliases() == ("1", "2")
    assert deploy.main(["--dataset", "tiny", "--rollback"]) == 2
    assert "--force makes it serve again" in capsys.readouterr().err
    assert aliases() == ("1", "2")
    assert deploy.main(["--dataset", "tiny", "--rollback", "--force"]) == 0
    assert aliases() == ("2", "1")


def test_a_rollout_step_is_recorded_once_and_only_for_the_champion(served: ServerSettings) -> None:
    canary = make_stage(Phase.CANARY, share=0.1)
    first = promotion.record_rollout_step("tiny", canary)
    assert promotion.record_rollout_step("tiny", canary) == first
    last = decisions.read_log("tiny").last()
    assert (last.serial, last.action, last.phase, last.share) == (3, "rollout step", "canary", 0.1)
    assert (first.serial, first.entry) == (3, decisions.read_log("tiny").last_hash)
    assert last.before == last.after == {CHAMPION: "2", PREVIOUS: "1"}
    promotion.roll_back_aliases("tiny")
    assert promotion.record_rollout_step("tiny", canary) is None


def test_a_rollout_step_hides_no_override(served: ServerSettings) -> None:
    promotion.override("tiny", "1", REASON)
    assert promotion.record_rollout_step("tiny", make_stage(Phase.SWITCH, "1.0", "2.0")) is not None
    assert promotion.standing_override("tiny") is not None
    assert promotion.serving_target("tiny").report["verdict"] == "OVERRIDE"


def test_a_rollback_by_command_loads_neither_torch_nor_mlflow() -> None:
    code = "import sys, serving.deploy; print({'torch', 'mlflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.stdout.strip() == "set()", done.stderr


def test_a_repeated_rollback_changes_nothing_and_asks_the_server(
    served: ServerSettings, stub: StubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    order(served)
    reconcile.settle_rollback("tiny", served)  # as the supervisor does after a command that met no registry
    assert deploy.main(["--dataset", "tiny", "--rollback"]) == 0
    assert "nothing changed: tiny 1.0 serves since the last rollback removed 2.0" in capsys.readouterr().out
    assert (stub.default, aliases()) == ("1.0", ("1", "2"))
    stub.default = "2.0"
    assert deploy.main(["--dataset", "tiny", "--rollback"]) == 2
    assert "tiny 1.0 does not serve: 2.0 is the default" in capsys.readouterr().err


# --- a switch is in the stage before it is done


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch, stub: StubServer) -> None:
    """A server that loads whatever it is asked to."""
    monkeypatch.setattr(policy, "committed_policy", lambda _: None)
    monkeypatch.setattr(reconcile.server, "start", lambda *_: False)
    monkeypatch.setattr(reconcile, "load_version", lambda archive, *_: stub.loaded.add(archive.version))
    monkeypatch.setattr(reconcile, "make_default", lambda archive, *_: stub.set_default("tiny", archive.version))


@pytest.fixture
def promoted(served: ServerSettings, stub: StubServer, live: None) -> ServerSettings:
    """Version 2 was promoted over version 1, which still serves and came after one that is gone."""
    stub.default = "1.0"
    write_stage(served, make_stage(Phase.SERVES, "1.0", "0.0"))
    return served


def test_a_rollback_during_a_deployment_goes_back_to_what_it_replaces(
    promoted: ServerSettings, stub: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, seen = reconcile._Reconciliation._keep_previous, []

    def order(self: object, *arguments: object) -> object:
        if not seen:
            seen.append((stub.default, stage_of(promoted).phase))
            deploy.roll_back("tiny", promoted, "it lists nonsense")
        return original(self, *arguments)

    monkeypatch.setattr(reconcile._Reconciliation, "_keep_previous", order)
    assert reconcile.deploy("tiny", promoted).version == "1.0"
    assert seen == [("2.0", Phase.SWITCH)]
    assert (stub.default, aliases()) == ("1.0", ("1", "2"))
    with pytest.raises(RegistryError, match="it lists nonsense"):
        promotion.promote("tiny", "2", PROMOTED)


def test_a_rollback_before_the_default_is_switched_undoes_the_switch_at_once(
    promoted: ServerSettings, stub: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def order(archive: object, *_: object) -> None:
        deploy.roll_back("tiny", promoted, "it lists nonsense")
        stub.set_default("tiny", archive.version)  # type: ignore[attr-defined]

    with monkeypatch.context() as patch:
        patch.setattr(reconcile, "make_default", order)
        attempt = reconcile._Reconciliation("tiny", promoted, promoted.state, print, None, False)
        with pytest.raises(reconcile.StageChangedError):
            attempt.run()
        assert stub.default == "1.0"
    assert reconcile.deploy("tiny", promoted).version == "1.0"


def test_a_deployment_that_was_killed_after_the_switch_can_be_completed_or_rolled_back(
    promoted: ServerSettings, stub: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(reconcile._Reconciliation, "_keep_previous", kill)
        with pytest.raises(KeyboardInterrupt):
            reconcile.deploy("tiny", promoted)
    stage = stage_of(promoted)
    assert (stub.default, stage.phase, stage.version, stage.previous) == ("2.0", Phase.SWITCH, "2.0", "1.0")
    assert rollout_stage.served_versions(stage) == ("2.0", "1.0"), "what a repair restores"
    assert reconcile.deploy("tiny", promoted).version == "2.0"
    assert stage_of(promoted).phase is Phase.SERVES
    rollout_stage.replace_stage(rollout_stage.stage_path("tiny", promoted), stage_of(promoted), stage)
    deploy.roll_back("tiny", promoted, "it lists nonsense")
    assert reconcile.settle_rollback("tiny", promoted) == "1.0"
    assert (stub.default, aliases()) == ("1.0", ("1", "2"))


# --- a fault of the previous version


@pytest.fixture
def on_trial(served: ServerSettings, stub: StubServer, live: None, monkeypatch: pytest.MonkeyPatch) -> ServerSettings:
    """Version 2 is on trial next to 1.0, which serves."""
    stub.default = "1.0"
    write_stage(served, make_stage(Phase.CANARY, share=0.1, plan=PLAN))
    monkeypatch.setattr(StubServer, "unregister", lambda self, _, version: self.loaded.discard(version), raising=False)
    return served


def fail_for(version: str, error: Exception):
    """A function that fails for a version (of the registry, or an archive's)."""

    def fails(subject: object, *_: object) -> None:
        if str(getattr(subject, "version", subject)).startswith(version):
            raise error

    return fails


def unavailable() -> RegistryError:
    error = RegistryError("MLflow refuses get_registered_model: no connection")
    error.__cause__ = OSError("no connection")
    return error


FAULTS = {
    "report": (promotion, "verified_target", RegistryError("its gate report cannot be read")),
    "artifact": (registry, "download_artifact", unavailable()),
    "golden": (reconcile, "load_version", DeployError("it does not answer its golden requests")),
    "server": (reconcile, "load_version", ServerError("TorchServe cannot be reached")),
}


@pytest.fixture(params=FAULTS)
def fault(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Exception:
    """Version 1 can be read, or loaded, no more."""
    place, name, error = FAULTS[request.param]
    real, fails = getattr(place, name), fail_for("1", error)
    monkeypatch.setattr(place, name, lambda subject, *more: fails(subject) or real(subject, *more))
    return error


@pytest.mark.parametrize("plan", [None, PLAN])
def test_a_fault_of_the_version_that_serves_ends_no_trial(
    on_trial: ServerSettings, stub: StubServer, fault: Exception, plan
) -> None:
    before = stage_of(on_trial)
    with pytest.raises(type(fault), match=str(fault)):
        reconcile.deploy("tiny", on_trial, plan=plan)
    assert (stub.default, stub.loaded, stage_of(on_trial)) == ("1.0", {"1.0", "2.0"}, before)


def test_a_trial_next_to_a_version_that_was_deleted_goes_on_until_somebody_decides(
    on_trial: ServerSettings, stub: StubServer
) -> None:
    registry.registry_client().delete_registered_model_alias("tiny", PREVIOUS)
    registry.registry_client().delete_model_version("tiny", "1")
    for plan in (None, PLAN):
        with pytest.raises(RegistryError, match=r"1\.0 serves, but .* previous is none.*--override 2 --reason"):
            reconcile.deploy("tiny", on_trial, plan=plan)
    assert (stub.default, stage_of(on_trial).phase) == ("1.0", Phase.CANARY)


def test_what_serves_according_to_the_stage_is_tried_against_although_the_server_is_empty(
    promoted: ServerSettings, stub: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StubServer, "describe", lambda *_: {})  # its archive could not be verified
    attempt = reconcile._Reconciliation("tiny", promoted, promoted.state, print, PLAN, False)
    attempt.log, attempt.client = decisions.read_log("tiny"), stub
    versions = registry.find_version("tiny", "2"), registry.find_version("tiny", "1")
    assert attempt._is_trial(*versions)
    with pytest.raises(
        RegistryError, match=r"1\.0 serves, but .* previous is none.*`python -m serving.deploy` switches"
    ):
        attempt._is_trial(versions[0], None)


def test_a_previous_version_with_a_fault_stays_loaded_with_its_archive(
    on_trial: ServerSettings, stub: StubServer, fault: Exception, artifacts
) -> None:
    write_stage(on_trial, make_stage(Phase.SERVES, "1.0", None))
    build_archive(artifacts[1], on_trial.model_store / "tiny-1.0.mar", "tiny", "1.0")
    lines: list[str] = []
    assert reconcile.deploy("tiny", on_trial, lines.append).version == "2.0"
    assert [line for line in lines if line.endswith(str(fault))]
    stage = stage_of(on_trial)
    assert (stage.phase, stage.version, stage.previous) == (Phase.SERVES, "2.0", "1.0"), "a rollback goes back to it"
    assert stub.loaded == {"1.0", "2.0"}
    assert (on_trial.model_store / "tiny-1.0.mar").exists()


def test_an_archive_that_a_repair_needs_is_kept_although_its_version_fails(
    on_trial: ServerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "load_version", fail_for("", DeployError("its worker died")))
    for stage, is_kept in ((make_stage(Phase.SERVES), True), (make_stage(Phase.SERVES, "1.0", None), False)):
        write_stage(on_trial, stage)
        with pytest.raises(DeployError, match="its worker died"):
            reconcile.deploy("tiny", on_trial)
        assert (on_trial.model_store / "tiny-2.0.mar").exists() == is_kept


# --- a decision during a trial


@pytest.mark.parametrize(
    "decide",
    [lambda third: promotion.promote("tiny", third, PROMOTED), lambda third: promotion.override("tiny", third, REASON)],
)
def test_what_is_on_trial_does_not_become_previous(
    on_trial: ServerSettings, stub: StubServer, third: str, decide
) -> None:
    promotion.record_rollout_step("tiny", make_stage(Phase.CANARY, share=0.1))
    decide(third)
    assert aliases() == (third, "1")
    assert reconcile.deploy("tiny", on_trial).version == f"{third}.0"
    assert stage_of(on_trial).previous == "1.0"
    assert stub.loaded == {"1.0", f"{third}.0"}, "the version on trial is unloaded"


def test_what_was_rolled_out_becomes_previous(served: ServerSettings, third: str) -> None:
    for phase in (Phase.SHADOW, Phase.CANARY, Phase.SWITCH):
        promotion.record_rollout_step("tiny", make_stage(phase))
    promotion.promote("tiny", third, PROMOTED)
    assert aliases() == (third, "2")


# --- what another host rolled back


def test_a_host_that_follows_a_rollback_of_another_one_goes_back_to_what_was_removed_only_by_force(
    served: ServerSettings, stub: StubServer, live: None, capsys: pytest.CaptureFixture[str]
) -> None:
    promotion.roll_back_aliases("tiny", "it lists nonsense")
    assert reconcile.deploy("tiny", served, plan=PLAN).version == "1.0", "at once, not on trial next to a bad version"
    assert stage_of(served).rollback_reason == "it lists nonsense"
    assert deploy.main(["--dataset", "tiny", "--rollback"]) == 0
    assert "nothing changed: tiny 1.0 serves since the last rollback removed 2.0" in capsys.readouterr().out
    assert (stub.default, aliases()) == ("1.0", ("1", "2"))


def test_a_rollback_to_what_another_host_removed_is_recorded_only_by_force(
    served: ServerSettings, stub: StubServer, live: None, capsys: pytest.CaptureFixture[str]
) -> None:
    promotion.roll_back_aliases("tiny", "it lists nonsense")
    stub.default = "1.0"
    write_stage(served, make_stage(Phase.SERVES, "1.0", "2.0"))  # which does not say why 2.0 was removed
    assert deploy.main(["--dataset", "tiny", "--rollback"]) == 2
    assert "removed 2; `--rollback --force` makes it serve again" in capsys.readouterr().err
    assert aliases() == ("1", "2")
    assert deploy.main(["--dataset", "tiny", "--rollback", "--force"]) == 0
    assert (stub.default, aliases()) == ("2.0", ("2", "1"))
    assert not stage_of(served).forced


# --- a full disk


def test_a_rollback_on_a_full_disk_switches_the_server_and_fails(
    served: ServerSettings, stub: StubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    for function in ("write_bytes", "append_lines"):
        with monkeypatch.context() as patch:
            patch.setattr(rollout_stage.files, function, full)
            stub.default = "2.0"
            assert deploy.main(["--dataset", "tiny", "--rollback"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "rolled back tiny from 2.0 to 1.0" in line
        assert "the order cannot be written (No space left on device)" in line
        assert (stub.default, aliases()) == ("1.0", ("2", "1"))


# --- the policy under which the champion passed


@pytest.fixture
def other_policy(two, host: ServerSettings, stub: StubServer, monkeypatch: pytest.MonkeyPatch) -> ServerSettings:
    """Version 1 serves; version 2 was promoted under a looser policy than the committed one."""
    monkeypatch.setattr(policy, "committed_policy", lambda _: {"margin": 0.02})
    promotion.promote("tiny", two[0], PROMOTED)
    stub.default = "1.0"
    write_stage(host, make_stage(Phase.SERVES, "1.0", None))
    promotion.promote("tiny", two[1], PROMOTED | {"policy": {"margin": 0.5}})
    monkeypatch.setattr(reconcile.server, "start", lambda *_: False)
    monkeypatch.setattr(reconcile, "load_version", lambda archive, *_: stub.loaded.add(archive.version))
    monkeypatch.setattr(reconcile, "make_default", lambda archive, *_: stub.set_default("tiny", archive.version))
    return host


@pytest.mark.parametrize("plan", [None, PLAN])
def test_a_champion_that_passed_another_policy_is_neither_deployed_nor_rolled_out(
    other_policy: ServerSettings, stub: StubServer, plan
) -> None:
    with pytest.raises(RegistryError, match=r"tiny 2 passed .* margin 0\.5 -> 0\.02; judge it again .*--accept-policy"):
        reconcile.deploy("tiny", other_policy, plan=plan)
    assert (stub.default, stage_of(other_policy).version) == ("1.0", "1.0")


def test_another_policy_that_is_accepted_is_recorded_in_the_reason(
    other_policy: ServerSettings, stub: StubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert deploy.main(["--dataset", "tiny", "--accept-policy"]) == 0
    assert (stub.default, stage_of(other_policy).version) == ("2.0", "2.0")
    assert "better by 5%; accepted: tiny 2 passed the gate under another policy" in stage_of(other_policy).reason
    assert reconcile.deploy("tiny", other_policy, print).version == "2.0"  # it serves already


@pytest.mark.parametrize("signed", [True, False])
def test_a_version_whose_archive_cannot_be_verified_is_built_and_loaded_anew(
    other_policy: ServerSettings, artifacts, monkeypatch: pytest.MonkeyPatch, signed: bool
) -> None:
    """Its worker may be of the changed archive, and answer the golden requests all the same."""
    allowed: list[set[Path]] = []
    monkeypatch.setattr(reconcile.server, "start", lambda _, verified: allowed.append(verified()))
    reconcile.deploy("tiny", other_policy, accept_policy=True)
    path = other_policy.model_store / "tiny-2.0.mar"
    assert reconcile.deploy("tiny", other_policy).version == "2.0", "it is verified"
    if signed:
        path.write_bytes(path.read_bytes().replace(b"class TidegateHandler", b"class TidegateHandles"))
    else:
        build_archive(artifacts[2], path, "tiny", "2.0")
    monkeypatch.setattr(StubServer, "unregister", lambda *_: None, raising=False)
    assert reconcile.deploy("tiny", other_policy).version == "2.1"
    assert [path in loaded for loaded in allowed] == [False, True, False]
    assert not path.exists()


def test_a_champion_that_serves_already_and_an_override_are_not_refused(
    other_policy: ServerSettings, two, stub: StubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "committed_policy", lambda _: {"margin": 0.5})
    assert reconcile.deploy("tiny", other_policy, print).version == "2.0"
    monkeypatch.setattr(policy, "committed_policy", lambda _: {"margin": 0.02})
    assert reconcile.deploy("tiny", other_policy, print).version == "2.0"
    promotion.override("tiny", two[0], REASON)
    assert reconcile.deploy("tiny", other_policy, print).version == "1.0"
