"""MLflow's model registry: one registered model per data set, and what may move its aliases.

    champion     the version that should serve
    previous     the champion before it, kept loaded for a quick way back
    challenger   the version that waits for the gate

An alias is not evidence: anyone can set one. What may serve is a version that the last signed move made champion
(serving/deployment/alias_changes.py), and whose own signed gate report says PROMOTE for this very version and artifact
(serving/deployment/gate_report.py); a refit on all events says so under its parent's report. In an emergency an
override stands in for the report: signed, with a reason, and loud until the next promotion.
"""

from __future__ import annotations

from dataclasses import dataclass

from serving.deployment import alias_changes, emergency_override, gate_report, model_versions, signature
from serving.deployment.alias_changes import CHAMPION, OVERRIDE, PREVIOUS, PROMOTION, ROLLBACK, Move
from serving.deployment.gate_report import PROMOTE
from serving.deployment.model_versions import (
    RegistryError,
    Version,
    aliased,
    client,
    create_version,
    download,
    find,
    registered,
    stored_digest,
)

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "PREVIOUS",
    "RegistryError",
    "Target",
    "Version",
    "aliased",
    "challenge",
    "create_version",
    "download",
    "find",
    "justified",
    "note_verdict",
    "opponent",
    "override",
    "promote",
    "registered",
    "restore",
    "rollback",
    "serving_target",
    "settle",
    "standing_override",
]

CHALLENGER = "challenger"
standing_override = emergency_override.standing


@dataclass(frozen=True)
class Target:
    """A version that may serve, and the report that says so."""

    version: Version
    report: dict


def challenge(dataset: str, version: str) -> None:
    """Name the version that the gate is to look at."""
    find(dataset, version)
    client().set_registered_model_alias(dataset, CHALLENGER, version)


def promote(dataset: str, version: str, report: dict, html: str | None = None) -> Target:
    """Sign and keep the gate's report as an artifact of the version, then make the version the champion.

    Killed in between and run again, it ends in the same state: the champion before it as `previous`.

    Args:
        report: the gate's verdict and evidence; `dataset`, `version` and `artifact` are added to it.
        html: the same for reading, kept beside it.

    Raises:
        RegistryError: the verdict is not PROMOTE, or the report is of another version or artifact, or rests on a
            parent's that does not hold.
    """
    candidate = find(dataset, version)
    stated = {"dataset": dataset, "version": version, "artifact": stored_digest(candidate)}
    for key, value in stated.items():
        if str(report.get(key, value)) != value:
            raise RegistryError(f"the report is of {key} {report[key]}, not of {value}")
    report = {**report, **stated}
    if report.get("verdict") != PROMOTE:
        raise RegistryError(f"{dataset} {version}: the verdict is {report.get('verdict')}, so no alias moves")
    alias_changes.finish(dataset)
    now = alias_changes.read(dataset).last()
    if "under" in report:
        gate_report.check_parent(candidate, report["under"])
        if now is not None and now.champion not in (version, report["under"]["version"]):
            raise RegistryError(f"{dataset} {version}: champion is {now.champion} by now, not its parent")
    gate_report.keep(candidate, report, html)
    if now is None or now.champion != version or now.why == OVERRIDE:
        _move(candidate, PROMOTION, str(report.get("reason", "")), now)
    challenger = aliased(dataset, CHALLENGER)
    if challenger is not None and challenger.version == version:
        client().delete_registered_model_alias(dataset, CHALLENGER)
    return serving_target(dataset)


def note_verdict(dataset: str, version: str, report: dict) -> None:
    """Show a verdict that moves no alias (HOLD, REJECT, INSUFFICIENT_DATA) on the version that it is of.

    Raises:
        RegistryError: there is no such version.
    """
    found = find(dataset, version).version
    loud = standing_override(dataset)
    if loud is not None and loud["version"] == found:
        report = {**report, "reason": f"{report.get('reason')}; OVERRIDE: {loud['line']}"}
    model_versions.verdict(client(), dataset, found, report)


def serving_target(dataset: str, alias: str = CHAMPION) -> Target:
    """The version that an alias names, if a signed move put it there and its own gate report, or an override, justifies it.

    Raises:
        RegistryError: there is no such alias, or it was moved by hand, or the report is none of the gate's, was
            changed, is of another version or artifact, or does not say PROMOTE.
    """
    version, record = aliased(dataset, alias), alias_changes.read(dataset)
    if fault := record.fault(alias, version.version if version else None):
        raise RegistryError(fault)
    if version is None:
        raise RegistryError(f"{dataset} has no {alias}; a version becomes one by passing the gate")
    for move in (record.last(), record.pending()):
        if move is not None and move.why == OVERRIDE and move.champion == version.version:
            return Target(version, emergency_override.report(version, move))
    return justified(version)


def justified(version: Version) -> Target:
    """A version with the gate's report that lets it serve.

    Raises:
        RegistryError: as `serving.deployment.gate_report.verified` says.
    """
    return Target(version, gate_report.verified(version))


def opponent(dataset: str, candidate: Version) -> Target:
    """What the gate judges a candidate against: the champion, or the one before where an override made the candidate it.

    Raises:
        RegistryError: nothing may serve.
    """
    champion = serving_target(dataset)
    if champion.version.version != candidate.version or standing_override(dataset) is None:
        return champion
    return serving_target(dataset, PREVIOUS) if aliased(dataset, PREVIOUS) else champion


def rollback(dataset: str, reason: str = "") -> Target:
    """Swap champion and previous; the report that once justified the previous one does so again.

    Killed in between and run again, it has gone back once. What was champion by override alone is no way back.

    Raises:
        RegistryError: there is no previous version, or its report does not justify it, or an alias was moved by hand.
    """
    done = alias_changes.finish(dataset)
    if done is not None and done.why == ROLLBACK:
        return serving_target(dataset)
    record = alias_changes.read(dataset)
    champion = aliased(dataset, CHAMPION)
    if fault := record.fault(CHAMPION, champion.version if champion else None):
        raise RegistryError(fault)
    target = serving_target(dataset, PREVIOUS)
    _move(target.version, ROLLBACK, reason, record.last())
    return target


def override(dataset: str, version: str, reason: str) -> Target:
    """Make a version the champion without the gate's word, for an emergency; the next promotion ends it.

    The only way on where the record of moves itself is not to be believed any more.

    Raises:
        RegistryError: the reason is none, there is no such version, its artifact is not the one registered, or the key
            is missing.
    """
    reason = emergency_override.checked(reason)
    candidate = find(dataset, version)
    if stored_digest(candidate) != candidate.artifact:
        raise RegistryError(f"{dataset} {version}: its artifact is not the one that was registered")
    signature.load(
        making=not alias_changes.read(dataset).entries
    )  # who has lost the key is told so, and makes no other
    try:
        alias_changes.finish(dataset)
        now = alias_changes.read(dataset).last()
    except RegistryError:
        now = None
    if now is None or (now.why, now.champion, now.reason) != (OVERRIDE, version, reason):
        emergency_override.announce(candidate, reason)  # first: whatever kills this, the version never serves unmarked
        _move(candidate, OVERRIDE, reason, now)
    return serving_target(dataset)


def settle(dataset: str) -> Move | None:
    """Complete a move of the aliases that was cut short; the last signed move, None where none ever was.

    Raises:
        RegistryError: the record of moves is not to be believed.
    """
    alias_changes.finish(dataset)
    return alias_changes.read(dataset).last()


def restore(dataset: str) -> Move:
    """Put the aliases back to what the last signed move says.

    Raises:
        RegistryError: there is none.
    """
    last = settle(dataset)
    if last is None:
        raise RegistryError(f"{dataset}: no move of its aliases is signed, so there is nothing to put back")
    alias_changes.show(last)
    return last


def _move(champion: Version, why: str, reason: str, now: Move | None) -> None:
    after = {CHAMPION: champion.version, PREVIOUS: _way_back(champion, now)}
    alias_changes.make(champion.dataset, why, reason, champion.artifact, after, now)


def _way_back(champion: Version, now: Move | None) -> str | None:
    """What `previous` is to say: the champion before, or, where an override alone justified that, the one before it."""
    if now is None or now.champion is None:
        return None
    before = now.champion if now.champion != champion.version else now.after[PREVIOUS]
    if now.why == OVERRIDE and before == now.champion and not _passed(champion.dataset, before):
        before = now.after[PREVIOUS]
    return before if before != champion.version else None


def _passed(dataset: str, version: str) -> bool:
    try:
        gate_report.verified(find(dataset, version))
    except RegistryError:
        return False
    return True
