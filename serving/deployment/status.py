"""The status of a dataset's serving: what serves, since when and why, what is loaded, how far a rollout is, what is wrong."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from pathlib import Path

from serving.deployment import decisions, promotion, rollout_evidence, rollout_stage
from serving.deployment.decisions import DecisionLog
from serving.deployment.policy import committed_policy, policy_difference
from serving.deployment.registry import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    RegisteredVersion,
    RegistryError,
    refit_parent,
    version_by_alias,
    version_number,
)
from serving.deployment.rollout_stage import DeploymentEvent, Phase, RolloutStage, registered_version
from serving.settings import ServerSettings
from serving.torchserve import server
from serving.torchserve.client import LoadedVersion, ServerError, TorchServe

START_EVENTS = (str(Phase.SERVES), str(Phase.ROLLBACK))  # events of the deployment log after which a version serves
COLUMNS = ("when (UTC)", "event", "from", "to", "result", "by", "reason")


def deployment_status(dataset: str, settings: ServerSettings) -> str:
    """The status as text, one labeled line per fact. Raises StageError if the stage's file cannot be read."""
    stage_path = rollout_stage.stage_path(dataset, settings)
    stage = rollout_stage.read_stage(stage_path)
    live, faults = _live_versions(dataset, settings)
    default = next((version.version for version in live.values() if version.default), None)
    started = _start_of(stage_path, default)
    loaded = [_loaded_text(version) for version in live.values()] or ["nothing"]
    lines = [("serves", _serving_text(default, started)), ("reason", started.reason if started else "not recorded")]
    lines += [("loaded", text) for text in loaded]
    if stage is not None:
        lines += _rollout_lines(stage, stage_path)
    faults += _find_faults(dataset, stage, live, default)
    lines += [("fault", fault) for fault in faults] or [("faults", "none")]
    title = f"{dataset} at {settings.inference_url}/predictions/{dataset}"
    texts = [*(f"{label:<9} {text}" for label, text in lines), *registry_lines(dataset)]
    return "\n".join([title, *(f"  {text}" for text in texts)])


def history_table(dataset: str, settings: ServerSettings) -> str:
    """The deployment log as a text table, one line per event."""
    rows = [COLUMNS]
    for event in rollout_stage.read_events(rollout_stage.stage_path(dataset, settings)):
        when = event.time[:19].replace("T", " ")
        rows.append((when, event.event, event.before or "-", event.after or "-", event.result, event.by, event.reason))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def registry_lines(dataset: str) -> list[str]:
    """One line per alias, one on the newest decision, and one per thing that needs attention."""
    versions = {alias: version_by_alias(dataset, alias) for alias in (CHAMPION, PREVIOUS, CHALLENGER)}
    lines = [(alias, _version_text(version) if version else "-") for alias, version in versions.items()]
    log = decisions.read_log(dataset)
    try:
        if last := log.last():
            lines.append(("decision", f"{last.serial}: {last}"))
        problems = _registry_problems(log, versions)
    except RegistryError as error:
        problems = [str(error)]
    lines += [("ATTENTION", problem) for problem in problems]
    return [f"registry  {label:<11} {text}" for label, text in lines]


def _registry_problems(log: DecisionLog, versions: dict[str, RegisteredVersion | None]) -> list[str]:
    numbers = {alias: version.version if version else None for alias, version in versions.items()}
    problems = [problem for alias in (CHAMPION, PREVIOUS) if (problem := log.alias_problem(alias, numbers[alias]))]
    if pending := log.pending():
        problems.append(f"the {pending} was interrupted; `python -m serving.deploy` completes it")
    if versions[CHAMPION] and not problems:
        report = promotion.serving_target(log.dataset).report
        if difference := policy_difference(report, committed_policy(log.dataset)):
            problems.append(difference)
    if override := log.standing_override():
        problems.append(f"OVERRIDE: {promotion.describe_override(override)}")
    return problems


def _version_text(version: RegisteredVersion) -> str:
    """The version's number; for a refit on all events also its parent's, which the gate judged."""
    with suppress(RegistryError):  # a deployment reports it
        if parent := refit_parent(version):
            return f"{version.version}, a refit of {parent}"
    return version.version


def _live_versions(dataset: str, settings: ServerSettings) -> tuple[dict[str, LoadedVersion], list[str]]:
    if server.find(settings) is None:
        return {}, ["TorchServe is not running; `python -m serving.deploy` starts it"]
    try:
        with TorchServe.from_settings(settings) as client:
            return client.describe(dataset), []
    except ServerError as error:
        return {}, [str(error)]


def _start_of(stage_path: Path, default: str | None) -> DeploymentEvent | None:
    """The event since which the default version serves. The stage may be of another version, which is on trial."""
    events = reversed(rollout_stage.read_events(stage_path))
    return next((event for event in events if event.event in START_EVENTS and event.after == default), None)


def _serving_text(default: str | None, started: DeploymentEvent | None) -> str:
    if default is None or started is None:
        return default or "nothing"
    since = datetime.fromisoformat(started.time)
    hours, seconds = divmod(int((rollout_stage.utc_now() - since).total_seconds()), 3600)
    days, minutes = hours // 24, seconds // 60
    duration = f"{days} d {hours % 24} h" if days else f"{hours} h {minutes} min" if hours else f"{minutes} min"
    return f"{default} since {since:%Y-%m-%d %H:%M:%S} UTC ({duration}), by {started.by}"


def _rollout_lines(stage: RolloutStage, stage_path: Path) -> list[tuple[str, str]]:
    evidence = rollout_evidence.total_evidence(stage_path, stage.since.isoformat())
    lines = [("rollout", f"{rollout_stage.describe_stage(stage)}, since {stage.since:%H:%M:%S} UTC")]
    if stage.on_trial:
        lines += [("verdict", stage.reason), ("evidence", rollout_evidence.summary(evidence))]
    return [*lines, ("next", rollout_stage.describe_next_step(stage, evidence, rollout_stage.utc_now()))]


def _find_faults(
    dataset: str, stage: RolloutStage | None, live: dict[str, LoadedVersion], default: str | None
) -> list[str]:
    champion = version_number(dataset, CHAMPION)
    faults = [f"{version.version} has no worker that is ready" for version in live.values() if not version.ready]
    if champion is None:
        return [*faults, f"the registry names no champion of {dataset}"]
    try:
        promotion.serving_target(dataset)
    except RegistryError as error:
        faults.append(str(error))
    on_trial = stage is not None and stage.on_trial and registered_version(stage.version) == champion
    if default is not None and registered_version(default) != champion and not on_trial:
        faults.append(f"{default} serves, but the champion is {champion}; `python -m serving.deploy` deploys it")
    if stage is not None and stage.phase is Phase.SERVES and stage.previous not in (*live, None):
        faults.append(f"{stage.previous} is not loaded, so a rollback would have to load it first")
    return faults


def _loaded_text(version: LoadedVersion) -> str:
    default = ", the default" if version.default else ""
    return f"{version.version} ({version.ready} of {version.workers} workers ready{default})"
