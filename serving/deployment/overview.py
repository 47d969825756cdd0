"""What the registry's aliases say and what is wrong with that, in lines that a person reads."""

from __future__ import annotations

from serving.promotion import moves, overriding, policy
from serving.promotion.move_record import CHAMPION, PREVIOUS, Record
from serving.promotion.versions import RegistryError, Version, aliased, parent_of
from serving.registry import CHALLENGER, serving_target


def overview(dataset: str) -> list[str]:
    """A line per alias, one on the last signed move, and one on each thing that wants attention."""
    found = {alias: aliased(dataset, alias) for alias in (CHAMPION, PREVIOUS, CHALLENGER)}
    says = {alias: version.version if version else None for alias, version in found.items()}
    lines = [_line(alias, _named(version) if version else "-") for alias, version in found.items()]
    record = moves.read(dataset)
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
        told = policy.difference(serving_target(record.dataset).report, policy.current(record.dataset))
        faults += [told] if told else []
    if loud := overriding.standing(record.dataset):
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
