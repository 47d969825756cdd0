"""Restore what this host served, from the archives of its model store and without the registry.

A repair never changes which version serves: only a deployment, a rollout, a rollback and `serving.install` do.
"""

from __future__ import annotations

from contextlib import suppress

from filelock import Timeout

from config.command import UserError
from serving.artifact.archive import ModelArchive, PackageError, read_archive
from serving.deployment import rollout_stage
from serving.deployment.archive_signature import store_verified, verified_archives
from serving.deployment.errors import SignatureError
from serving.deployment.load_version import DeployError, Progress, load_version, make_default
from serving.deployment.rollout_stage import Phase, RolloutStage, StageError, served_versions
from serving.settings import ServerSettings
from serving.torchserve import server
from serving.torchserve.client import ServerError, TorchServe

DEPLOYMENT_SECONDS = 5.0  # left to a running deployment, which repairs the server as well; then the next check is due


class RestoreError(UserError):
    """Nothing can be restored; the text says why."""


def restore(dataset: str, settings: ServerSettings, progress: Progress = print, end_with_parent: bool = False) -> str:
    """Serve what the rollout stage says; without a stage, what was served last, else the newest archive.

    Starts TorchServe if it does not run, with `end_with_parent` as in `server.start`. The version on trial and the
    one that is kept for a rollback are loaded, too. A rollback in the stage is done on the server, not in the registry.
    Archives are verified before they are loaded. Returns the default version.

    Raises:
        RestoreError: the version's archive is gone, there is no archive at all, or a deployment is at work.
        StageError: the stage cannot be read, and no version is loaded.
        PackageError, SignatureError, DeployError, ServerStartError: as in `serving.install`.
    """
    if server.find(settings) is None:  # it loads archives while it starts
        server.start(settings, lambda: verified_archives(settings, progress), end_with_parent)
    with TorchServe.from_settings(settings) as client:
        restoration = _Restoration(dataset, settings, client, progress)
        stage = restoration.read_stage()
        if stage is not None and stage.phase is Phase.ROLLBACK:
            restoration.switch(served_versions(stage)[0])  # at once, whatever a deployment waits for
        try:  # with the lock, because a deployment switches the server before it writes the stage
            with server.lock(settings, "deploy").acquire(timeout=DEPLOYMENT_SECONDS):
                while True:
                    stage = restoration.read_stage()
                    default = restoration.run(stage)
                    if restoration.read_stage() == stage:  # else a rollback was ordered meanwhile
                        return default
        except Timeout:
            raise RestoreError(f"a deployment of {dataset} is at work, so nothing was repaired") from None


def stored_archives(dataset: str, settings: ServerSettings) -> dict[str, ModelArchive]:
    """Version -> archive of the dataset in the model store."""
    stored = {}
    for path in settings.model_store.glob("*.mar"):
        with suppress(PackageError):  # a copy that was interrupted
            archive = read_archive(path)
            if archive.name == dataset:
                stored[archive.version] = archive
    return stored


class _Restoration:
    """Follows a stage on the server."""

    def __init__(self, dataset: str, settings: ServerSettings, client: TorchServe, progress: Progress) -> None:
        self.dataset, self.settings, self.client, self.progress = dataset, settings, client, progress
        self.stage_path = rollout_stage.stage_path(dataset, settings)

    def run(self, stage: RolloutStage | None) -> str:
        """Load and switch to what the stage says; returns the default version."""
        stored = stored_archives(self.dataset, self.settings)
        default, other = served_versions(stage) if stage else (self._served_last(stored), None)
        self.switch(default)  # first: it may be loaded, and another one the default
        if default in stored:
            self._load(stored[default])
            if stage is None or self.read_stage() == stage:
                make_default(stored[default], self.client, self.settings, self.progress)
        elif not self._is_ready(default):
            raise RestoreError(
                f"{self.dataset} {default} served, but {self.settings.model_store} does not hold its archive; "
                "`python -m serving.deploy` builds it again"
            )
        if other is not None:
            self._load_other(other, stored.get(other), self.settings.workers if stage and stage.on_trial else 1)
        return default

    def switch(self, version: str) -> None:
        """Make a version the default if it is loaded."""
        if self._is_ready(version) and not self.client.describe(self.dataset)[version].default:
            self.client.set_default(self.dataset, version)

    def read_stage(self) -> RolloutStage | None:
        """The stage. One that cannot be read counts as none if a version is loaded."""
        try:
            return rollout_stage.read_stage(self.stage_path)
        except StageError as error:
            if not self.client.describe(self.dataset):  # the newest archive may be one that never served
                raise
            self.progress(f"what is loaded stays: {error}")
            return None

    def _load(self, archive: ModelArchive) -> None:
        if archive.version not in self.client.describe(self.dataset):
            archive = store_verified(archive.path, self.settings.model_store)
        # A server that dies meanwhile is not waited for: the caller is the one that starts it again.
        load_version(archive, self.client, self.settings, self.progress, waits=self._server_runs)

    def _server_runs(self) -> bool:
        return server.find(self.settings) is not None

    def _is_ready(self, version: str) -> bool:
        live = self.client.describe(self.dataset).get(version)
        return live is not None and live.ready > 0

    def _served_last(self, stored: dict[str, ModelArchive]) -> str:
        """TorchServe's default version, which it remembers, else the newest archive."""
        for live in self.client.describe(self.dataset).values():
            if live.default:
                return live.version
        if not stored:
            raise RestoreError(
                f"{self.settings.model_store} holds no archive of {self.dataset}; run `python -m serving.deploy`, or "
                "`python -m serving.install FILE.mar` where there is no registry"
            )
        return max(stored, key=lambda version: [int(part) for part in version.split(".")])

    def _load_other(self, version: str, archive: ModelArchive | None, workers: int) -> None:
        """Load a version next to the default. A failure is only a warning, because the default serves."""
        try:
            if archive is None:
                raise RestoreError(f"{self.settings.model_store} does not hold its archive")
            self._load(archive)
            if self.client.describe(self.dataset)[version].workers != workers:
                self.client.scale(self.dataset, version, workers)
        except (RestoreError, PackageError, SignatureError, DeployError, ServerError) as error:
            self.progress(f"{self.dataset} {version} is not loaded next to the version that serves: {error}")
