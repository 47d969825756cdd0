"""One screen: what serves, since when and why; what is loaded; how far a trial is; what comes next; what is wrong."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from serving.deployment import (
    alias_changes,
    deployment_log,
    emergency_override,
    gate_report,
    registry,
    rollout_evidence,
    rollout_stage,
)
from serving.deployment.alias_changes import CHAMPION, PREVIOUS, Record
from serving.deployment.deployment_log import Entry
from serving.deployment.model_versions import RegistryError, Version, aliased, parent_of
from serving.deployment.registry import CHALLENGER, serving_target
from serving.deployment.rollout_stage import Phase, Stage, number
from serving.settings import ServerSettings
from serving.torchserve import server
from serving.torchserve.client import LoadedVersion, ServerError, TorchServe


def overview(dataset: str) -> list[str]:
    """A line per alias, one on the last signed move, and one on each thing that wants attention."""
    found = {alias: aliased(dataset, alias) for alias in (CHAMPION, PREVIOUS, CHALLENGER)}
    says = {alias: version.version if version else None for alias, version in found.items()}
    lines = [_line(alias, _named(version) if version else "-") for alias, version in found.items()]
    record = alias_changes.read(dataset)
    try:
        last, wrong = record.last(), _wrong(record, says)
    except RegistryError as error:
        return [*lines, _line("ATTENTION", str(error))]
    return [*lines, *([_line("last move", str(last))] if last else []), *(_line("ATTENTION", what) for what in wrong)]


def _wrong(record: Record, says: dict[str, str | None]) -> list[str]:
    faults = [fault for alias in (CHAMPION, PREVIOUS) if (fault := record.fault(alias, says[alias]))]
    if under_way := record.pending():
        faults.append(f"the {under_way} was cut short; `python -m serving.deploy` completes it")
    if says[CHAMPION] and not faults:
        told = gate_report.difference(serving_target(record.dataset).report, gate_report.current(record.dataset))
        faults += [told] if told else []
    if loud := emergency_override.standing(record.dataset):
        faults.append(f"OVERRIDE: {loud['line']}")
    return faults


def _named(version: Version) -> str:
    """Its number; of a refit on all events with its parent's, of which the gate's word is."""
    try:
        parent = parent_of(version)
    except RegistryError:  # whoever deploys it is told
        parent = None
    return version.version if parent is None else f"{version.version}, a refit of {parent}"


def _line(what: str, said: str) -> str:
    return f"registry  {what:<11} {said}"


STARTS = (str(Phase.SERVES), str(Phase.BACK))  # of a version's serving, in the history


def status(dataset: str, settings: ServerSettings) -> str:
    """A word and what it is of, line by line.

    Raises:
        StageError: the stage's file cannot be read.
    """
    place = rollout_stage.place(dataset, settings)
    standing = rollout_stage.read(place)
    live, faults = _live(dataset, settings)
    default = next((one.version for one in live.values() if one.default), None)
    began = _began(dataset, place, default)
    lines = [("serves", _serves(default, began)), ("because", began.why if began else "nobody wrote down why")]
    lines += [("loaded", f"{one.version} {_workers(one)}") for one in live.values()] or [("loaded", "nothing")]
    if standing is not None:
        lines += _trial(standing, place)
    champion = registry.aliased(dataset, registry.CHAMPION)
    faults += _faults(dataset, standing, live, champion.version if champion else None)
    lines += [("fault", fault) for fault in faults] or [("faults", "none")]
    title = f"{dataset} at {settings.inference_url}/predictions/{dataset}"
    told = [f"  {word:<9} {told}" for word, told in lines]
    return "\n".join([title, *told, *(f"  {line}" for line in overview(dataset))])


def _live(dataset: str, settings: ServerSettings) -> tuple[dict[str, LoadedVersion], list[str]]:
    if server.find(settings) is None:
        return {}, ["TorchServe is not running; `python -m serving.deploy` starts it"]
    try:
        with TorchServe.from_settings(settings) as client:
            return client.describe(dataset), []
    except ServerError as error:
        return {}, [str(error)]


def _began(dataset: str, place: Path, default: str | None) -> Entry | None:
    """When what answers by default began to: the stage may be of another version by now, which is on trial."""
    found = deployment_log.entries(place.with_suffix(rollout_stage.HISTORY), dataset)
    return next((one for one in reversed(found) if one.what in STARTS and one.after == default), None)


def _serves(default: str | None, began: Entry | None) -> str:
    if default is None or began is None:
        return default or "nothing"
    since = datetime.fromisoformat(began.time)
    for_so_long = int((rollout_stage.now() - since).total_seconds())
    return f"{default} since {since:%Y-%m-%d %H:%M:%S} UTC ({_lasting(for_so_long)}), by {began.by}"


def _trial(standing: Stage, place: Path) -> list[tuple[str, str]]:
    seen = rollout_evidence.total(place, standing.since.isoformat())
    lines = [("rollout", f"{rollout_stage.name(standing)}, since {standing.since:%H:%M:%S} UTC")]
    if standing.tried:
        lines += [("judged", standing.why), ("seen", rollout_evidence.figures(seen))]
    return [*lines, ("next", rollout_stage.comes_next(standing, seen, rollout_stage.now()))]


def _faults(dataset: str, standing: Stage | None, live: dict[str, LoadedVersion], champion: str | None) -> list[str]:
    faults = [f"{one.version} has no worker that is ready" for one in live.values() if not one.ready]
    if champion is None:
        return [*faults, f"the registry names no champion of {dataset}"]
    try:
        registry.serving_target(dataset)
    except RegistryError as error:
        faults.append(str(error))
    default = next((one.version for one in live.values() if one.default), None)
    tried = standing is not None and standing.tried and number(standing.version) == champion
    if default is not None and number(default) != champion and not tried:
        faults.append(f"{default} serves, and champion is {champion}; `python -m serving.deploy` brings it")
    if standing is not None and standing.phase is Phase.SERVES and standing.previous not in (*live, None):
        faults.append(f"{standing.previous} is not loaded, so a rollback would have to load it first")
    return faults


def _workers(one: LoadedVersion) -> str:
    return f"({one.ready} of {one.workers} workers ready{', the default' if one.default else ''})"


def _lasting(seconds: int) -> str:
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3600)
    return f"{days} d {hours} h" if days else f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min"
