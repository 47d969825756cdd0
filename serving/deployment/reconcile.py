"""Make TorchServe serve what the newest decision names, in steps that are each safe to repeat.

A rollback that this host ordered while the registry was out of reach lies in the rollout stage, and is recorded first. If a
deployment is killed at any moment and run again, it converges. The old version answers until the new one has passed
its golden requests on the live server. A version that is on trial (`python -m serving.rollout`) stays on trial.
"""

from __future__ import annotations

import re
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from config.current_user import current_user
from config.params import Rollout
from serving.artifact.archive import ModelArchive, PackageError, build_archive, content_hash
from serving.deployment import archive_signature, decisions, policy, promotion, registry, rollout_stage, signature
from serving.deployment.decisions import OVERRIDE, ROLLBACK, ROLLOUT_STEP, Decision, DecisionLog
from serving.deployment.errors import DecidedMeanwhileError, DeployError, SignatureError
from serving.deployment.load_version import Progress, load_version, make_default
from serving.deployment.promotion import ServingTarget
from serving.deployment.registry import RegisteredVersion, RegistryError
from serving.deployment.rollout_stage import Phase, RolloutStage, registered_version, served_versions
from serving.deployment.serving_check import check_serves
from serving.settings import ServerSettings
from serving.torchserve import server
from serving.torchserve.client import ServerError, TorchServe

# From the switch until the former version is unloaded. TorchServe never answers what its workers hold by then.
DRAIN_SECONDS = 2.0


class StageChangedError(Exception):
    """Another process changed the stage or the champion, so the next step may not be wanted any more."""


@dataclass(frozen=True)
class Deployment:
    """The version that TorchServe answers with by default, after a deployment."""

    version: str  # as TorchServe names it
    label: str | None  # of the model, if its gate report states one
    golden_requests: int  # that it answers as at export


def deploy(
    dataset: str,
    settings: ServerSettings,
    progress: Progress = print,
    plan: Rollout | None = None,
    accept_policy: bool = False,
) -> Deployment:
    """Reconcile until the stage stays unchanged. With a plan, a new champion is put on trial; without, it serves at once.

    The stage says that a version serves only after the server has said so. `accept_policy` also serves a new champion
    that passed the gate under another policy than the committed one, and the stage's reason says so.

    Raises:
        RegistryError: nothing may serve, or the artifact is gone or corrupt; what served before still does.
        DeployError: the new version failed on the server and was unloaded.
        ServerStartError: there is no server to deploy to.
    """
    with server.lock(settings, "deploy"):
        while True:
            try:
                with tempfile.TemporaryDirectory(prefix="tidegate-") as scratch:
                    return _Reconciliation(dataset, settings, Path(scratch), progress, plan, accept_policy).run()
            except StageChangedError:
                progress("another process decided meanwhile; starting again")
            except DeployError as error:
                rollout_stage.log_failure(rollout_stage.stage_path(dataset, settings), str(error))
                raise


def settle_rollback(dataset: str, settings: ServerSettings, progress: Progress = print) -> str | None:
    """Complete a rollback that was ordered here: the version before answers, and the registry records it. Never forward.

    A newer decision of the registry is not carried out; `deploy` does that.

    Returns:
        The version that answers; None if no rollback was ordered.

    Raises:
        RegistryError: the registry is out of reach, or does not hold what this host has seen. The order stays.
        ServerError, DeployError: the version before does not answer.
    """
    with server.lock(settings, "deploy"):
        path = rollout_stage.stage_path(dataset, settings)
        stage = rollout_stage.read_stage(path)
        if stage is None or stage.phase is not Phase.ROLLBACK or stage.previous is None:
            return None
        with TorchServe.from_settings(settings) as client:
            client.set_default(dataset, stage.previous)
            check_serves(dataset, stage.previous, client)
        log = _record_rollback(dataset, stage, progress)
        rollout_stage.replace_stage(path, stage, rollout_stage.rolled_back_stage(stage, log.last_serial, log.last_hash))
        return stage.previous


def _record_rollback(dataset: str, stage: RolloutStage, progress: Progress) -> DecisionLog:
    """Record an ordered rollback, unless the registry holds a newer decision or holds it already; the log after that."""
    decisions.complete_decision(dataset)
    log = decisions.read_log(dataset)
    log.check_holds(stage.serial, stage.entry)
    target, last = registered_version(stage.previous or ""), log.last_change()
    if newer := _decision_after(log, stage):
        if (newer.action, newer.decided_at) != (ROLLBACK, stage.since.isoformat()):
            progress(
                f"the rollback to {stage.previous} ordered at {stage.since:%H:%M:%S} UTC gives way to the newer {newer}"
            )
    elif registry.version_number(dataset, registry.CHAMPION) != target:
        try:
            if last is not None and promotion.is_another_champion(last, stage):
                progress(
                    f"the rollback to {stage.previous} holds on this host only: the {last} stands; "
                    f"`python -m serving.deploy` serves {last.champion}, `--override {target} --reason ...` serves {target}"
                )
                removed = log.artifact_of(registered_version(stage.version))
                if last.action == OVERRIDE or (removed and _removal(log, removed)):
                    return log
            removal = _removal(log, registry.find_version(dataset, target).artifact)
            if removal and not stage.forced:
                raise RegistryError(f"the {removal} removed {target}; `--rollback --force` makes it serve again")
            promotion.roll_back_aliases(dataset, ordered=stage, seen=log)
        except DecidedMeanwhileError:
            return _record_rollback(dataset, stage, progress)
        except RegistryError as error:
            if registry.is_unavailable(error):
                raise
            raise RegistryError(
                f"{dataset} {stage.previous} answers since a rollback ({stage.reason}), which cannot be recorded: {error}; "
                f"`python -m serving.deploy --override {target} --reason ...` keeps it"
            ) from None
    return decisions.read_log(dataset)


def _decision_after(log: DecisionLog, stage: RolloutStage) -> Decision | None:
    """The newest decision after an ordered rollback: not seen by this host when it ordered, and later; None if none is.

    A step of the rollout that was rolled back is not: it only carries out what the rollback ends.
    """
    for decision in log.history():
        if decision.serial <= stage.serial:
            return None
        is_ended = decision.action == ROLLOUT_STEP and decision.champion == registered_version(stage.version)
        if not is_ended:
            return decision if datetime.fromisoformat(decision.decided_at) >= stage.since else None
    return None


def _removal(log: DecisionLog, artifact: str) -> Decision | None:
    """The rollback that removed an artifact; None if none did, or the artifact became champion again."""
    for decision in log.history():
        if decision.action == ROLLBACK and decision.removed == artifact:
            return decision
        if decision.artifact == artifact:
            return None
    return None


class _Reconciliation:
    """One attempt, valid as long as nobody else changes the stage. Artifacts are downloaded to `scratch`."""

    def __init__(
        self,
        dataset: str,
        settings: ServerSettings,
        scratch: Path,
        progress: Progress,
        plan: Rollout | None,
        accept_policy: bool,
    ) -> None:
        self.dataset, self.settings, self.scratch, self.progress, self.plan = dataset, settings, scratch, progress, plan
        self.accept_policy = accept_policy
        self.stage_path = rollout_stage.stage_path(dataset, settings)
        self.stage = rollout_stage.read_stage(self.stage_path)

    def run(self) -> Deployment:
        self.log = self._follow_decisions()
        if override := self.log.standing_override():
            self.progress(f"OVERRIDE: {promotion.describe_override(override)}")
        champion = promotion.serving_target(self.dataset)
        self.reason = f"{champion.report.get('verdict')}: {champion.report.get('reason', 'no reason was given')}"
        self._check_policy(champion)
        previous = registry.version_by_alias(self.dataset, registry.PREVIOUS)
        if server.start(self.settings, lambda: archive_signature.verified_archives(self.settings, self.progress)):
            self.progress("started TorchServe")
        with TorchServe.from_settings(self.settings) as self.client:
            new = self._build(champion.version)
            if self._is_trial(champion.version, previous):
                target = promotion.serving_target(self.dataset, registry.PREVIOUS)
                default = self._load_registered(target.version, self.settings.workers)  # first, because it answers
                self._continue_trial(new, default)
                other: str | None = default.version
            else:
                target, default = champion, new
                other = self._serve(new, previous)
            with suppress(ServerError):  # what is left over harms nobody, and the next deployment removes it
                self._remove_others({new.version, other})
        if rollout_stage.read_stage(self.stage_path) != self.stage:
            raise StageChangedError
        return Deployment(default.version, target.report.get("label"), len(default.golden_requests))

    def _follow_decisions(self) -> DecisionLog:
        """Complete and record what was decided, before anything is done by it; the log."""
        if interrupted := decisions.complete_decision(self.dataset):
            self.progress(f"completed the interrupted {interrupted}")
        stage, log = self.stage, decisions.read_log(self.dataset)
        if stage is None:
            return log
        if stage.phase is not Phase.ROLLBACK or stage.previous is None:
            log.check_holds(stage.serial, stage.entry)
            return log
        log = _record_rollback(self.dataset, stage, self.progress)
        if registry.version_number(self.dataset, registry.CHAMPION) != registered_version(stage.previous):
            self._replace_stage(rollout_stage.rolled_back_stage(stage, log.last_serial, log.last_hash))
        return log

    def _check_policy(self, champion: ServingTarget) -> None:
        """Refuse a new champion that passed the gate under another policy than the committed one, unless it is accepted."""
        stage = self.stage
        served = (
            [registered_version(version) for version in (stage.version, stage.previous) if version] if stage else []
        )
        difference = policy.policy_difference(champion.report, policy.committed_policy(self.dataset))
        if difference is None or champion.version.version in served:
            return
        if not self.accept_policy:
            raise RegistryError(
                f"{difference}; judge it again (`python -m experiments.gate`), or serve it all the same with "
                "--accept-policy, which the deployment log records"
            )
        self.reason += f"; accepted: {difference}"

    def _is_trial(self, champion: RegisteredVersion, previous: RegisteredVersion | None) -> bool:
        """Whether the champion is to answer next to the previous version, not in its place.

        Raises:
            RegistryError: it is to, but the previous version is not the one that serves.
        """
        stage = self.stage
        is_on_trial = stage is not None and stage.on_trial and _is_build(champion.version, stage.version)
        if self.plan is None and (not is_on_trial or self.log.standing_override()):
            return False  # an override serves at once
        serves = served_versions(stage)[0] if stage else self._default()
        if serves is None or _is_build(champion.version, serves):
            return False
        if previous is not None:
            removal = _removal(self.log, previous.artifact)
            if _is_build(previous.version, serves) and (is_on_trial or not removal):
                return True
            if removal:
                return False
        how = f" --override {champion.version} --reason ..." if is_on_trial else ""
        raise RegistryError(
            f"{self.dataset} {serves} serves, but the registry's previous is {previous.version if previous else 'none'}: a "
            f"trial could not roll back to what serves; `python -m serving.deploy{how}` switches at once"
        )

    def _continue_trial(self, new: ModelArchive, old: ModelArchive) -> None:
        make_default(old, self.client, self.settings, self.progress)
        check_serves(self.dataset, old.version, self.client)
        self._load(new)
        self._scale(new, self.settings.workers)
        stage = self.stage
        if stage is None or not stage.on_trial or (stage.version, stage.previous) != (new.version, old.version):
            plan = self.plan or (stage.plan if stage else None)
            shadow = self._new_stage(Phase.SHADOW, new, old.version, self.reason, plan=plan)
            recorded = promotion.record_rollout_step(self.dataset, shadow)
            if recorded is None:
                raise StageChangedError  # another version is champion by now
            self._replace_stage(recorded)

    def _serve(self, new: ModelArchive, previous: RegisteredVersion | None) -> str | None:
        """Make a version the default; returns the previous one, which is kept."""
        self._load(new)
        self._scale(new, self.settings.workers)
        if rollout_stage.read_stage(self.stage_path) != self.stage:
            raise StageChangedError
        removal = previous and _removal(self.log, previous.artifact)  # by this host or another one
        rollback_reason = (removal.reason or str(removal)) if removal else ""
        self._begin_switch(new, rollback_reason)
        make_default(new, self.client, self.settings, self.progress)
        self._follow_changed_stage()
        check_serves(self.dataset, new.version, self.client)
        old = self._keep_previous(previous) if previous else None
        stage, reason = self.stage, self.reason
        if stage is not None and old is not None:
            if stage.phase is Phase.ROLLBACK and _is_build(new.version, stage.previous):
                rollback_reason, reason = stage.reason, f"back from {stage.version}: {stage.reason}"
            elif (
                stage.phase is Phase.SERVES and _is_build(new.version, stage.version) and _is_build(old, stage.previous)
            ):
                rollback_reason = rollback_reason or stage.rollback_reason
        if stage is None or (stage.phase, stage.version) != (Phase.SERVES, new.version):
            self._replace_stage(self._new_stage(Phase.SERVES, new, old, reason, rollback_reason=rollback_reason))
        else:
            changes = {"previous": old, "rollback_reason": rollback_reason}
            self._replace_stage(self._seen(stage.model_copy(update=changes)))
        return old

    def _begin_switch(self, new: ModelArchive, rollback_reason: str) -> None:
        """Write to the stage which version is about to replace the default one, unless the stage says that it serves.

        From now on a rollback, a repair and the next deployment know it.
        """
        wanted = served_versions(self.stage)[0] if self.stage else None
        versions = (self._default(), wanted)
        former = next((version for version in versions if version and not _is_build(new.version, version)), None)
        if former is not None and not _is_build(new.version, wanted):
            switch = self._new_stage(Phase.SWITCH, new, former, self.reason, rollback_reason=rollback_reason)
            self._replace_stage(switch)

    def _default(self) -> str | None:
        return next((live.version for live in self.client.describe(self.dataset).values() if live.default), None)

    def _follow_changed_stage(self) -> None:
        """If a rollback was ordered while the default was switched, undo the switch at once and start again."""
        changed = rollout_stage.read_stage(self.stage_path)
        if changed != self.stage:
            with suppress(ServerError):  # the next attempt, or the supervisor, does it
                if changed is not None:
                    self.client.set_default(self.dataset, served_versions(changed)[0])
            raise StageChangedError

    def _new_stage(self, phase: Phase, new: ModelArchive, previous: str | None, reason: str, **fields) -> RolloutStage:
        versions = {"version": new.version, "previous": previous}
        fields |= versions | {"since": rollout_stage.utc_now(), "reason": reason, "by": current_user()}
        return self._seen(RolloutStage(dataset=self.dataset, phase=phase, **fields))

    def _seen(self, stage: RolloutStage) -> RolloutStage:
        """The stage with the newest decision that this deployment has seen."""
        return stage.model_copy(update={"serial": self.log.last_serial, "entry": self.log.last_hash})

    def _replace_stage(self, new: RolloutStage) -> None:
        if new != self.stage and not rollout_stage.replace_stage(self.stage_path, self.stage, new):
            raise StageChangedError
        self.stage = new

    def _build(self, version: RegisteredVersion) -> ModelArchive:
        """Write a version's archive into the model store. The same code, artifact and batching reuse an archive's name."""
        folder = self.scratch / version.version
        folder.mkdir()
        artifact = registry.download_artifact(version, folder)
        name = f"{version.version}.{self._archive_number(version.version, content_hash(artifact))}"
        path = self.settings.model_store / f"{version.dataset}-{name}.mar"
        sign = archive_signature.signer(promotion.justification(version), signature.sign)
        return build_archive(artifact, path, version.dataset, name, sign=sign)

    def _archive_number(self, version: str, content: str) -> int:
        """The number of the version's archive with this content, if it is loaded with these settings, else a new one.

        An archive that cannot be verified does not count: nobody knows what was loaded from it.
        """
        live, stored = self.client.describe(self.dataset), self._stored_archives()
        numbers = sorted(int(name.partition(".")[2]) for name in stored if registered_version(name) == version)
        batching = (self.settings.batch_size, self.settings.batch_delay_ms)
        for number in numbers:
            loaded = live.get(f"{version}.{number}")
            path = stored[f"{version}.{number}"]
            with suppress(PackageError, SignatureError):  # a file that was cut short, changed or signed by nobody
                is_same = archive_signature.store_verified(path, self.settings.model_store).content == content
                if is_same and (loaded is None or (loaded.batch_size, loaded.batch_delay_ms) == batching):
                    return number
        return numbers[-1] + 1 if numbers else 0

    def _stored_archives(self) -> dict[str, Path]:
        """Version -> archive in the model store, of this dataset only ("demo" is not "demo-2")."""
        pattern = re.compile(rf"{re.escape(self.dataset)}-(\d+\.\d+)\.mar")
        matches = ((pattern.fullmatch(path.name), path) for path in self.settings.model_store.glob("*.mar"))
        return {match[1]: path for match, path in matches if match}

    def _load(self, archive: ModelArchive) -> None:
        try:
            load_version(archive, self.client, self.settings, self.progress)
        except DeployError:
            if self.stage is None or archive.version not in served_versions(self.stage):  # which a repair restores
                archive.path.unlink(missing_ok=True)  # it can be built again from the registry
            raise

    def _load_registered(self, version: RegisteredVersion, workers: int) -> ModelArchive:
        archive = self._build(version)
        self._load(archive)
        self._scale(archive, workers)
        return archive

    def _keep_previous(self, version: RegisteredVersion) -> str | None:
        """Load the previous champion. A failure is only a warning, because the champion serves, and what served stays."""
        try:
            promotion.serving_target(self.dataset, registry.PREVIOUS)
            return self._load_registered(version, 1).version
        except (DeployError, RegistryError, ServerError) as error:
            self.progress(f"the previous version is not loaded for a rollback: {error}")
            former = self.stage.previous if self.stage else None
            return former if _is_build(version.version, former) else None

    def _scale(self, archive: ModelArchive, workers: int) -> None:
        if self.client.describe(archive.name)[archive.version].workers != workers:
            self.client.scale(archive.name, archive.version, workers)

    def _remove_others(self, kept: set[str | None]) -> None:
        others = sorted(self.client.describe(self.dataset).keys() - kept)
        if others:
            time.sleep(DRAIN_SECONDS)
        for version in others:
            self.client.unregister(self.dataset, version)
            self.progress(f"unloaded {self.dataset} {version}")
        for version, path in self._stored_archives().items():
            if version not in kept:
                path.unlink(missing_ok=True)


def _is_build(version: str, other: str | None) -> bool:
    """Whether two archives are of the same registered version."""
    return other is not None and registered_version(version) == registered_version(other)
