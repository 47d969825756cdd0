"""Which version may serve, and how a version becomes champion, by promotion or rollback.

An alias alone proves nothing, because anybody can set one. A version may serve if the last signed alias change made it
champion (serving/deployment/alias_changes.py) and its own signed gate report says PROMOTE for this version and artifact
(serving/deployment/gate_report.py). A refit on all events serves under its parent's report. An emergency override
(serving/deployment/emergency_override.py) takes the place of the report until the next promotion.
"""

from __future__ import annotations

from dataclasses import dataclass

from serving.deployment import alias_changes, gate_report, registry
from serving.deployment.alias_changes import OVERRIDE, PROMOTION, ROLLBACK, AliasChange
from serving.deployment.gate_report import PROMOTE
from serving.deployment.registry import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    RegisteredVersion,
    RegistryError,
    find_version,
    registry_client,
    stored_digest,
    version_by_alias,
)


@dataclass(frozen=True)
class ServingTarget:
    """A version that may serve, and the report that justifies it."""

    version: RegisteredVersion
    report: dict


def set_challenger(dataset: str, version: str) -> None:
    """Name the version that the gate judges next."""
    find_version(dataset, version)
    registry_client().set_registered_model_alias(dataset, CHALLENGER, version)


def promote(dataset: str, version: str, report: dict, html: str | None = None) -> ServingTarget:
    """Sign and store the gate's report as an artifact of the version, then make the version the champion.

    The former champion becomes `previous`. If this is interrupted and run again, it ends in the same state.

    Args:
        report: the gate's verdict and evidence; `dataset`, `version` and `artifact` are added to it.
        html: the report as a page, stored beside it.

    Raises:
        RegistryError: the verdict is not PROMOTE, the report is of another version or artifact, or its parent's report
            is not valid.
    """
    candidate = find_version(dataset, version)
    subject = {"dataset": dataset, "version": version, "artifact": stored_digest(candidate)}
    for key, value in subject.items():
        if str(report.get(key, value)) != value:
            raise RegistryError(f"the report is of {key} {report[key]}, not of {value}")
    report = {**report, **subject}
    if report.get("verdict") != PROMOTE:
        raise RegistryError(f"{candidate}: the verdict is {report.get('verdict')}, so no alias changes")
    alias_changes.complete_change(dataset)
    last = alias_changes.read_record(dataset).last()
    if "under" in report:
        gate_report.check_refit_parent(candidate, report["under"])
        if last is not None and last.champion not in (version, report["under"]["version"]):
            raise RegistryError(f"{candidate}: the champion is now {last.champion}, not its parent")
    gate_report.store_report(candidate, report, html)
    if last is None or last.champion != version or last.action == OVERRIDE:
        change_champion(candidate, PROMOTION, str(report.get("reason", "")), last)
    challenger = version_by_alias(dataset, CHALLENGER)
    if challenger is not None and challenger.version == version:
        registry_client().delete_registered_model_alias(dataset, CHALLENGER)
    return serving_target(dataset)


def record_verdict(dataset: str, version: str, report: dict) -> None:
    """Show a verdict that changes no alias (HOLD, REJECT, INSUFFICIENT_DATA) on its version.

    Raises:
        RegistryError: there is no such version.
    """
    number = find_version(dataset, version).version
    override = standing_override(dataset)
    if override is not None and override.champion == number:
        report = {**report, "reason": f"{report.get('reason')}; OVERRIDE: {describe_override(override)}"}
    registry.set_verdict(dataset, number, report)


def serving_target(dataset: str, alias: str = CHAMPION) -> ServingTarget:
    """The version that an alias names, if a signed change and a gate report, or an override, justify it.

    Raises:
        RegistryError: the alias does not exist or was changed by hand, or the report is not signed by the gate, was
            changed, is of another version or artifact, or does not say PROMOTE.
    """
    version, record = version_by_alias(dataset, alias), alias_changes.read_record(dataset)
    if problem := record.alias_problem(alias, version.version if version else None):
        raise RegistryError(problem)
    if version is None:
        raise RegistryError(f"{dataset} has no {alias}; a version becomes one by passing the gate")
    for change in (record.last(), record.pending()):
        if change is not None and change.action == OVERRIDE and change.champion == version.version:
            return ServingTarget(version, gate_report.override_report(version, change))
    return verified_target(version)


def verified_target(version: RegisteredVersion) -> ServingTarget:
    """A version with the gate's report that lets it serve.

    Raises:
        RegistryError: as `serving.deployment.gate_report.verified_report`.
    """
    return ServingTarget(version, gate_report.verified_report(version))


def champion_to_beat(dataset: str, candidate: RegisteredVersion) -> ServingTarget:
    """The version against which the gate judges a candidate.

    This is the champion, or the version before it if an override made the candidate champion.

    Raises:
        RegistryError: nothing may serve.
    """
    champion = serving_target(dataset)
    if champion.version.version != candidate.version or standing_override(dataset) is None:
        return champion
    return serving_target(dataset, PREVIOUS) if version_by_alias(dataset, PREVIOUS) else champion


def standing_override(dataset: str) -> AliasChange | None:
    """The emergency override that made the present champion; None if the gate promoted it.

    Raises:
        RegistryError: the record of alias changes cannot be trusted.
    """
    return alias_changes.read_record(dataset).standing_override()


def describe_override(override: AliasChange) -> str:
    """One line for logs, status and reports."""
    reason = gate_report.override_reason(override.reason)
    return f"{override.dataset} {override.champion} is champion {reason} ({override.changed_by}, {override.changed_at})"


def roll_back_aliases(dataset: str, reason: str = "") -> ServingTarget:
    """Swap champion and previous in the registry.

    If this is interrupted and run again, it rolls back once. A version that was champion only by an override does not
    become `previous`.

    Raises:
        RegistryError: there is no previous version, its report does not justify it, or an alias was changed by hand.
    """
    completed = alias_changes.complete_change(dataset)
    if completed is not None and completed.action == ROLLBACK:
        return serving_target(dataset)
    record = alias_changes.read_record(dataset)
    champion = version_by_alias(dataset, CHAMPION)
    if problem := record.alias_problem(CHAMPION, champion.version if champion else None):
        raise RegistryError(problem)
    target = serving_target(dataset, PREVIOUS)
    change_champion(target.version, ROLLBACK, reason, record.last())
    return target


def settle_aliases(dataset: str) -> AliasChange | None:
    """Complete an alias change that was interrupted; the last signed change, None if nothing was ever signed.

    Raises:
        RegistryError: the record of alias changes cannot be trusted.
    """
    alias_changes.complete_change(dataset)
    return alias_changes.read_record(dataset).last()


def restore_aliases(dataset: str) -> AliasChange:
    """Set the aliases to what the last signed change names, after somebody changed them by hand.

    Raises:
        RegistryError: no change was ever signed.
    """
    last = settle_aliases(dataset)
    if last is None:
        raise RegistryError(f"{dataset}: no alias change was ever signed, so there is nothing to restore")
    alias_changes.set_aliases(last)
    return last


def change_champion(champion: RegisteredVersion, action: str, reason: str, last: AliasChange | None) -> None:
    """Sign and apply the alias change that makes a version champion.

    Args:
        last: the change before, None for the first.
    """
    after = {CHAMPION: champion.version, PREVIOUS: _previous_version(champion, last)}
    alias_changes.apply_change(champion.dataset, action, reason, champion.artifact, after, last)


def _previous_version(champion: RegisteredVersion, last: AliasChange | None) -> str | None:
    """The former champion; the version before it if only an override justified the former champion."""
    if last is None or last.champion is None:
        return None
    former = last.champion if last.champion != champion.version else last.after[PREVIOUS]
    if last.action == OVERRIDE and former == last.champion and not _has_valid_report(champion.dataset, former):
        former = last.after[PREVIOUS]
    return former if former != champion.version else None


def _has_valid_report(dataset: str, version: str) -> bool:
    try:
        gate_report.verified_report(find_version(dataset, version))
    except RegistryError:
        return False
    return True
