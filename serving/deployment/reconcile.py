"""One attempt to bring TorchServe to what the registry and the stage say, each step of which is safe to repeat."""

from __future__ import annotations

from pathlib import Path

from config.params import Rollout
from serving.deployment import alias_changes, archives, registry, rollout_stage
from serving.deployment.deployment_log import who
from serving.deployment.load_version import DeployError, Say, bring_up, make_default
from serving.deployment.registry import RegistryError, Target, Version
from serving.deployment.rollout_stage import Phase, Stage, number
from serving.package import Build
from serving.settings import ServerSettings
from serving.torchserve import server
from serving.torchserve.client import ServerError, TorchServe


class Overtaken(Exception):
    """Somebody moved the stage meanwhile: what was about to be done may not be wanted any more."""


class Reconcile:
    """One attempt, for as long as the stage stays as it is."""

    def __init__(self, dataset: str, settings: ServerSettings, scratch: Path, say: Say, plan: Rollout | None) -> None:
        self.dataset, self.settings, self.scratch, self.say, self.plan = dataset, settings, scratch, say, plan
        self.place = rollout_stage.place(dataset, settings)
        self.standing = rollout_stage.read(self.place)

    def run(self) -> str:
        if cut_short := alias_changes.finish(self.dataset):
            self.say(f"completed the {cut_short}, which was cut short")
        if loud := registry.standing_override(self.dataset):
            self.say(f"OVERRIDE: {loud['line']}")
        else:
            self._obey_order()
        champion = registry.serving_target(self.dataset)
        previous = self._previous(champion.version)
        if server.start(self.settings):
            self.say("started TorchServe")
        with TorchServe.from_settings(self.settings) as self.client:
            wanted = archives.build(champion.version, self.client, self.settings, self.scratch)
            former = None
            if previous is not None and self._is_tried(champion.version, previous):
                former = self._loaded(previous, self.settings.workers)  # first: it answers, whatever else is loaded
            if former is not None:
                self._try(wanted, former, champion)
                answers = former
            else:
                former = self._serve(wanted, previous, champion)
                answers = wanted
            self._remove_others({wanted.version} | ({former.version} if former else set()))
        return answers.version

    def _obey_order(self) -> None:
        """Have the registry say what a rollback ordered, before anything is done by what it says."""
        ordered = self.standing
        if ordered is None or ordered.phase is not Phase.BACK or ordered.previous is None:
            return
        champion, wanted = registry.aliased(self.dataset, registry.CHAMPION), number(ordered.previous)
        if champion is not None and champion.version == wanted:
            return
        previous = registry.aliased(self.dataset, registry.PREVIOUS)
        if previous is None or previous.version != wanted:
            raise RegistryError(
                f"{self.dataset} {ordered.previous} answers, as a rollback ordered ({ordered.why}), and the registry does "
                f"not name {wanted} as previous any more; `--override {wanted}` keeps it, another version's serves that"
            )
        registry.rollback(self.dataset, ordered.why)

    def _previous(self, champion: Version) -> Version | None:
        try:
            previous = registry.serving_target(self.dataset, registry.PREVIOUS).version
        except RegistryError as error:
            if registry.aliased(self.dataset, registry.PREVIOUS) is not None:
                self.say(f"not kept for rollback: {error}")
            return None
        return previous if previous.version != champion.version else None

    def _is_tried(self, champion: Version, previous: Version) -> bool:
        """Whether the champion is to answer beside the previous version, not in its place."""
        standing = self.standing
        ends = (champion.version, previous.version)
        if (
            standing is not None
            and standing.tried
            and ends == (number(standing.version), number(standing.previous or ""))
        ):
            return True
        if self.plan is None or (standing is not None and standing.phase in (Phase.SWITCH, Phase.BACK)):
            return False
        default = [live.version for live in self.client.describe(self.dataset).values() if live.default]
        if not default or number(default[0]) == champion.version:
            return False
        if number(default[0]) != previous.version:
            raise RegistryError(
                f"{self.dataset} {default[0]} serves, and the registry's previous is {previous.version}: a trial could "
                "not go back to what serves; `python -m serving.deploy` switches at once"
            )
        return True

    def _try(self, wanted: Build, former: Build, champion: Target) -> None:
        make_default(former, self.client, self.settings, self.say)
        self._bring_up(wanted)
        if self.client.describe(self.dataset)[wanted.version].workers != self.settings.workers:
            self.client.scale(self.dataset, wanted.version, self.settings.workers)
        standing = self.standing
        ends = (wanted.version, former.version)
        if standing is None or not standing.tried or (standing.version, standing.previous) != ends:
            plan = self.plan or (standing.plan if standing else None)
            self._move(Phase.SHADOW, wanted, former, _reason(champion), plan=plan)

    def _serve(self, wanted: Build, previous: Version | None, champion: Target) -> Build | None:
        """Make a version the default; the previous one, if it could be kept loaded."""
        self._bring_up(wanted)
        if rollout_stage.read(self.place) != self.standing:
            raise Overtaken
        make_default(wanted, self.client, self.settings, self.say)
        former = None if previous is None else self._loaded(previous, 1)
        standing, undone, why = self.standing, "", _reason(champion)
        if standing is not None and standing.phase is Phase.BACK and wanted.version == standing.previous and former:
            undone, why = standing.why, f"back from {standing.version}: {standing.why}"
        kept = former.version if former else None
        if standing is None or (standing.phase, standing.version) != (Phase.SERVES, wanted.version):
            self._move(Phase.SERVES, wanted, former, why, undone=undone)
        elif standing.previous != kept:
            self._replace(standing.model_copy(update={"previous": kept, "undone": ""}))
        return former

    def _move(self, phase: Phase, wanted: Build, former: Build | None, why: str, **more) -> None:
        previous = former.version if former else None
        ends = {"version": wanted.version, "previous": previous}
        self._replace(
            Stage(dataset=self.dataset, phase=phase, since=rollout_stage.now(), why=why, by=who(), **ends, **more)
        )

    def _replace(self, new: Stage) -> None:
        if not rollout_stage.move(self.place, self.standing, new):
            raise Overtaken
        self.standing = new

    def _bring_up(self, build: Build) -> None:
        try:
            bring_up(build, self.client, self.settings, self.say)
        except DeployError:
            build.archive.unlink(missing_ok=True)  # the registry holds what it was made of
            raise

    def _loaded(self, version: Version, workers: int) -> Build | None:
        """Load the previous champion. That it cannot be is a warning: the champion serves."""
        try:
            build = archives.build(version, self.client, self.settings, self.scratch)
            self._bring_up(build)
            if self.client.describe(build.name)[build.version].workers != workers:
                self.client.scale(build.name, build.version, workers)
            return build
        except (DeployError, RegistryError, ServerError) as error:
            self.say(f"not kept for rollback: {error}")
            return None

    def _remove_others(self, kept: set[str]) -> None:
        for name in sorted(self.client.describe(self.dataset).keys() - kept):
            self.client.unregister(self.dataset, name)
            self.say(f"unloaded {self.dataset} {name}")
        for name, archive in archives.archives(self.dataset, self.settings).items():
            if name not in kept:
                archive.unlink(missing_ok=True)


def _reason(target: Target) -> str:
    """Why a version may serve, in a line: its gate's verdict and reason."""
    return f"{target.report.get('verdict')}: {target.report.get('reason', 'no reason was given')}"
