"""Make TorchServe serve what the registry and the rollout stage name, in steps that are each safe to repeat.

If a deployment is killed at any moment and run again, it converges. The old version answers until the new one has passed
its golden requests on the live server. A version that is on trial (`python -m serving.rollout`) stays on trial.
"""

from __future__ import annotations

import re
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from config.current_user import current_user
from config.params import Rollout
from serving.artifact.archive import ModelArchive, PackageError, build_archive, content_hash, read_archive
from serving.deployment import alias_changes, archive_signature, promotion, registry, rollout_stage, signature
from serving.deployment.load_version import DeployError, Progress, load_version, make_default
from serving.deployment.promotion import ServingTarget
from serving.deployment.registry import RegisteredVersion, RegistryError
from serving.deployment.rollout_stage import Phase, RolloutStage, registered_version
from serving.settings import ServerSettings
from serving.torchserve import server
from serving.torchserve.client import ServerError, TorchServe


class StageChangedError(Exception):
    """Another process changed the stage, so the next step may not be wanted any more."""


@dataclass(frozen=True)
class Deployment:
    """The version that TorchServe answers with by default, after a deployment."""

    version: str  # as TorchServe names it
    label: str | None  # of the model, if its gate report states one
    golden_requests: int  # that it answers as at export


def deploy(
    dataset: str, settings: ServerSettings, progress: Progress = print, plan: Rollout | None = None
) -> Deployment:
    """Reconcile until the stage stays unchanged. With a plan, a new champion is put on trial; without, it serves at once.

    Raises:
        RegistryError: nothing may serve, or the artifact is gone or corrupt; what served before still does.
        DeployError: the new version failed on the server and was unloaded.
        ServerStartError: there is no server to deploy to.
    """
    with server.lock(settings, "deploy"):
        while True:
            try:
                with tempfile.TemporaryDirectory(prefix="tidegate-") as scratch:
                    return _Reconciliation(dataset, settings, Path(scratch), progress, plan).run()
            except StageChangedError:
                progress("another process changed the rollout stage; starting again")
            except DeployError as error:
                rollout_stage.log_failure(rollout_stage.stage_path(dataset, settings), str(error))
                raise


class _Reconciliation:
    """One attempt, valid as long as nobody else changes the stage. Artifacts are downloaded to `scratch`."""

    def __init__(
        self, dataset: str, settings: ServerSettings, scratch: Path, progress: Progress, plan: Rollout | None
    ) -> None:
        self.dataset, self.settings, self.scratch, self.progress, self.plan = dataset, settings, scratch, progress, plan
        self.stage_path = rollout_stage.stage_path(dataset, settings)
        self.stage = rollout_stage.read_stage(self.stage_path)

    def run(self) -> Deployment:
        if interrupted := alias_changes.complete_change(self.dataset):
            self.progress(f"completed the interrupted {interrupted}")
        if override := promotion.standing_override(self.dataset):
            self.progress(f"OVERRIDE: {promotion.describe_override(override)}")
        else:
            self._complete_ordered_rollback()
        champion = promotion.serving_target(self.dataset)
        previous = self._previous_target(champion.version)
        if server.start(self.settings):
            self.progress("started TorchServe")
        with TorchServe.from_settings(self.settings) as self.client:
            new = self._build(champion.version)
            old, default, target = None, new, champion
            if previous is not None and self._is_trial(champion.version, previous.version):
                old = self._load_previous(previous.version, self.settings.workers)  # first, because it answers
            if previous is not None and old is not None:
                default, target = old, previous
                self._continue_trial(new, old, champion)
            else:
                old = self._serve(new, previous.version if previous else None, champion)
            self._remove_others({new.version} | ({old.version} if old else set()))
        return Deployment(default.version, target.report.get("label"), len(default.golden_requests))

    def _complete_ordered_rollback(self) -> None:
        """Change the registry's aliases as an ordered rollback wants, before anything is done by them."""
        stage = self.stage
        if stage is None or stage.phase is not Phase.ROLLBACK or stage.previous is None:
            return
        wanted = registered_version(stage.previous)
        if registry.version_number(self.dataset, registry.CHAMPION) == wanted:
            return
        if registry.version_number(self.dataset, registry.PREVIOUS) != wanted:
            raise RegistryError(
                f"{self.dataset} {stage.previous} answers since a rollback ({stage.reason}), but the registry no longer "
                f"names {wanted} as previous; `python -m serving.deploy --override` with {wanted} keeps it, and with "
                "another version serves that one"
            )
        promotion.roll_back_aliases(self.dataset, stage.reason)

    def _previous_target(self, champion: RegisteredVersion) -> ServingTarget | None:
        try:
            previous = promotion.serving_target(self.dataset, registry.PREVIOUS)
        except RegistryError as error:
            if registry.version_number(self.dataset, registry.PREVIOUS) is not None:
                self.progress(f"the previous version is not kept for a rollback: {error}")
            return None
        return previous if previous.version.version != champion.version else None

    def _is_trial(self, champion: RegisteredVersion, previous: RegisteredVersion) -> bool:
        """Whether the champion is to answer next to the previous version, not in its place."""
        stage = self.stage
        if stage is not None and stage.on_trial:
            on_trial = registered_version(stage.version), registered_version(stage.previous or "")
            if on_trial == (champion.version, previous.version):
                return True
        if self.plan is None or (stage is not None and stage.phase in (Phase.SWITCH, Phase.ROLLBACK)):
            return False
        default = [live.version for live in self.client.describe(self.dataset).values() if live.default]
        if not default or registered_version(default[0]) == champion.version:
            return False
        if registered_version(default[0]) != previous.version:
            raise RegistryError(
                f"{self.dataset} {default[0]} serves, but the registry's previous is {previous.version}: a trial could "
                "not roll back to what serves; `python -m serving.deploy` switches at once"
            )
        return True

    def _continue_trial(self, new: ModelArchive, old: ModelArchive, champion: ServingTarget) -> None:
        make_default(old, self.client, self.settings, self.progress)
        self._load(new)
        self._scale(new, self.settings.workers)
        stage = self.stage
        if stage is None or not stage.on_trial or (stage.version, stage.previous) != (new.version, old.version):
            plan = self.plan or (stage.plan if stage else None)
            self._set_stage(Phase.SHADOW, new, old, _reason(champion), plan=plan)

    def _serve(
        self, new: ModelArchive, previous: RegisteredVersion | None, champion: ServingTarget
    ) -> ModelArchive | None:
        """Make a version the default; returns the previous one if it could be kept loaded."""
        self._load(new)
        if rollout_stage.read_stage(self.stage_path) != self.stage:
            raise StageChangedError
        make_default(new, self.client, self.settings, self.progress)
        old = None if previous is None else self._load_previous(previous, 1)
        stage, rollback_reason, reason = self.stage, "", _reason(champion)
        if stage is not None and stage.phase is Phase.ROLLBACK and new.version == stage.previous and old:
            rollback_reason, reason = stage.reason, f"back from {stage.version}: {stage.reason}"
        kept = old.version if old else None
        if stage is None or (stage.phase, stage.version) != (Phase.SERVES, new.version):
            self._set_stage(Phase.SERVES, new, old, reason, rollback_reason=rollback_reason)
        elif stage.previous != kept:
            self._replace_stage(stage.model_copy(update={"previous": kept, "rollback_reason": ""}))
        return old

    def _set_stage(self, phase: Phase, new: ModelArchive, old: ModelArchive | None, reason: str, **fields) -> None:
        versions = {"version": new.version, "previous": old.version if old else None}
        fields |= versions | {"since": rollout_stage.utc_now(), "reason": reason, "by": current_user()}
        self._replace_stage(RolloutStage(dataset=self.dataset, phase=phase, **fields))

    def _replace_stage(self, new: RolloutStage) -> None:
        if not rollout_stage.replace_stage(self.stage_path, self.stage, new):
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
        """The number of the version's archive with this content, if it is loaded with these settings, else a new one."""
        live, stored = self.client.describe(self.dataset), self._stored_archives()
        numbers = sorted(int(name.partition(".")[2]) for name in stored if registered_version(name) == version)
        batching = (self.settings.batch_size, self.settings.batch_delay_ms)
        for number in numbers:
            loaded = live.get(f"{version}.{number}")
            with suppress(PackageError):  # a file that was cut short
                is_same = read_archive(stored[f"{version}.{number}"]).content == content
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
            archive.path.unlink(missing_ok=True)  # it can be built again from the registry
            raise

    def _load_previous(self, version: RegisteredVersion, workers: int) -> ModelArchive | None:
        """Load the previous champion. A failure is only a warning, because the champion serves."""
        try:
            archive = self._build(version)
            self._load(archive)
            self._scale(archive, workers)
            return archive
        except (DeployError, RegistryError, ServerError) as error:
            self.progress(f"the previous version is not kept for a rollback: {error}")
            return None

    def _scale(self, archive: ModelArchive, workers: int) -> None:
        if self.client.describe(archive.name)[archive.version].workers != workers:
            self.client.scale(archive.name, archive.version, workers)

    def _remove_others(self, kept: set[str]) -> None:
        for version in sorted(self.client.describe(self.dataset).keys() - kept):
            self.client.unregister(self.dataset, version)
            self.progress(f"unloaded {self.dataset} {version}")
        for version, path in self._stored_archives().items():
            if version not in kept:
                path.unlink(missing_ok=True)


def _reason(target: ServingTarget) -> str:
    return f"{target.report.get('verdict')}: {target.report.get('reason', 'no reason was given')}"
