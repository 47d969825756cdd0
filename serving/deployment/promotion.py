"""Which version may serve, and how a version becomes champion: by promotion, rollback or emergency override.

An alias alone proves nothing, because anybody can set one. A version may serve if the last signed alias change made it
champion (serving/deployment/alias_changes.py) and its own signed gate report says PROMOTE for this version and artifact.
The report of a refit on all events names its parent, and is valid only as long as the parent's report is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha256

from config.current_user import current_user
from serving.deployment import alias_changes, registry, signature
from serving.deployment.alias_changes import OVERRIDE, PROMOTION, ROLLBACK, AliasChange, how_to_justify
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
    version_number,
)
from serving.deployment.signature import canonical_json

PROMOTE = "PROMOTE"
OVERRIDE_VERDICT = "OVERRIDE"  # in place of a verdict, for a champion that an emergency override made
WITHOUT_GATE = "without the gate's approval, until the next promotion"
SIGNED_KIND = "gate report"
REPORT_TAG, SIGNATURE_TAG = "gate_report", "gate_report_signature"
MIN_REASON_WORDS = 3  # of an override


@dataclass(frozen=True)
class ServingTarget:
    """A version that may serve, and the report that justifies it."""

    version: RegisteredVersion
    report: dict


def serving_target(dataset: str, alias: str = CHAMPION) -> ServingTarget:
    """The version that an alias names, if a signed change and a gate report, or an override, justify it.

    Raises:
        RegistryError: the alias does not exist or was changed by hand, or as `verified_target`.
    """
    version, record = version_by_alias(dataset, alias), alias_changes.read_record(dataset)
    if problem := record.alias_problem(alias, version.version if version else None):
        raise RegistryError(problem)
    if version is None:
        raise RegistryError(f"{dataset} has no {alias}; a version becomes one by passing the gate")
    for change in (record.last(), record.pending()):
        if change is not None and change.action == OVERRIDE and change.champion == version.version:
            return ServingTarget(version, _override_report(version, change))
    return verified_target(version)


def champion_to_beat(dataset: str, candidate: RegisteredVersion) -> ServingTarget:
    """The version against which the gate judges a candidate: the champion, or the one before if it is an override."""
    standing = standing_override(dataset)
    if standing and standing.champion == candidate.version and version_number(dataset, PREVIOUS):
        return serving_target(dataset, PREVIOUS)
    return serving_target(dataset)


# --- changes of the aliases


def set_challenger(dataset: str, version: str) -> None:
    """Name the version that the gate judges next."""
    registry_client().set_registered_model_alias(dataset, CHALLENGER, version)


def promote(dataset: str, version: str, report: dict, html: str | None = None) -> ServingTarget:
    """Sign and store the gate's report, then make the version the champion and the former champion `previous`.

    If this is interrupted and run again, it ends in the same state. `html` is the report as a page.

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
    last = settle_aliases(dataset)
    if "under" in report:
        _check_refit_parent(candidate, report["under"])
        if last is not None and last.champion not in (version, report["under"]["version"]):
            raise RegistryError(f"{candidate}: the champion is now {last.champion}, not its parent")
    store_report(candidate, report, html)
    if last is None or last.champion != version or last.action == OVERRIDE:
        _change_champion(candidate, PROMOTION, str(report.get("reason", "")), last)
    if version_number(dataset, CHALLENGER) == version:
        registry_client().delete_registered_model_alias(dataset, CHALLENGER)
    return serving_target(dataset)


def record_verdict(dataset: str, version: str, report: dict) -> None:
    """Show a verdict that changes no alias (HOLD, REJECT, INSUFFICIENT_DATA) on its version."""
    standing = standing_override(dataset)
    if standing is not None and standing.champion == version:
        report = {**report, "reason": f"{report.get('reason')}; OVERRIDE: {describe_override(standing)}"}
    registry.set_verdict(dataset, version, report)


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
    champion = version_number(dataset, CHAMPION)
    problem = record.alias_problem(CHAMPION, champion)
    if problem and not (champion is None and record.deleted_version(CHAMPION)):
        raise RegistryError(problem)
    target = serving_target(dataset, PREVIOUS)
    _change_champion(target.version, ROLLBACK, reason, record.last())
    return target


def override(dataset: str, version: str, reason: str) -> ServingTarget:
    """Make a version the champion without the gate's approval, in an emergency.

    This is the only way forward if the record of alias changes itself cannot be trusted any more.

    Raises:
        RegistryError: the reason is too short, there is no such version, its artifact is not the one registered, or the
            gate's key is missing.
    """
    words = reason.split()
    if len(words) < MIN_REASON_WORDS:
        raise RegistryError(f"--reason is {reason!r}; an override needs one of at least {MIN_REASON_WORDS} words")
    reason = " ".join(words)
    candidate = find_version(dataset, version)
    if stored_digest(candidate) != candidate.artifact:
        raise RegistryError(f"{candidate}: its artifact is not the one that was registered")
    signature.signing_key(OVERRIDE)  # who cannot sign it gets the error before anything changes
    try:
        last = settle_aliases(dataset)
    except RegistryError:
        last = None
    if last is None or (last.action, last.champion, last.reason) != (OVERRIDE, version, reason):
        # Marked first, so that the version never serves unmarked if this is interrupted.
        verdict = {"verdict": OVERRIDE_VERDICT, "reason": f"by {current_user()}, {WITHOUT_GATE}: {reason}"}
        registry.set_verdict(dataset, version, verdict)
        _change_champion(candidate, OVERRIDE, reason, last)
    return serving_target(dataset)


def standing_override(dataset: str) -> AliasChange | None:
    """The emergency override that made the present champion; None if the gate promoted it."""
    return alias_changes.read_record(dataset).standing_override()


def describe_override(override: AliasChange) -> str:
    """One line for logs, status and reports."""
    by = f"{override.changed_by}, {override.changed_at}"
    return f"{override.dataset} {override.champion} is champion {WITHOUT_GATE}: {override.reason} ({by})"


def settle_aliases(dataset: str) -> AliasChange | None:
    """Complete an alias change that was interrupted; the last signed change, None if nothing was ever signed."""
    alias_changes.complete_change(dataset)
    return alias_changes.read_record(dataset).last()


def restore_aliases(dataset: str) -> AliasChange:
    """Set aliases that were changed by hand to what the last signed change names.

    Raises:
        RegistryError: there is no such change, or its champion was deleted.
    """
    last = settle_aliases(dataset)
    if last is None:
        raise RegistryError(
            f"{dataset}: no alias change is signed, so there is nothing to restore: the model is new, or was deleted in "
            "MLflow; `python -m experiments.gate` finds a first champion"
        )
    if problem := alias_changes.read_record(dataset).deleted_version(CHAMPION):
        raise RegistryError(problem)
    alias_changes.set_aliases(last)
    return last


def _change_champion(champion: RegisteredVersion, action: str, reason: str, last: AliasChange | None) -> None:
    """Sign and apply the alias change that makes a version champion; `last` is the change before.

    The former champion becomes `previous`, or the version before it if only an override justified it.
    """
    former = last.champion if last else None
    if last and former == champion.version:
        former = last.after[PREVIOUS]
    elif last and former and last.action == OVERRIDE:
        try:
            verified_target(find_version(champion.dataset, former))
        except RegistryError:
            former = last.after[PREVIOUS]
    if last and former and not registry.is_registered(champion.dataset, former):
        former = last.after[PREVIOUS]
    after = {CHAMPION: champion.version, PREVIOUS: former if former != champion.version else None}
    alias_changes.apply_change(champion.dataset, action, reason, champion.artifact, after, last)


# --- the gate's reports


def store_report(version: RegisteredVersion, report: dict, html: str | None) -> None:
    """Log the report to the version's run, sign it, and show its verdict on the version."""
    text = json.dumps(report, indent=1, sort_keys=True, default=str)
    digest = _sha256(text.encode())
    folder = f"gate-v{version.version}/{digest[:12]}"
    mlflow = registry_client()
    mlflow.log_text(version.run_id, text, f"{folder}/report.json")
    if html is not None:
        mlflow.log_text(version.run_id, html, f"{folder}/report.html")
    registry.sync_logged(mlflow, version.run_id, folder)
    uri = f"runs:/{version.run_id}/{folder}/report.json"
    statement = {key: report.get(key) for key in ("verdict", "dataset", "version", "artifact", "date")}
    statement |= {"policy": _sha256(canonical_json(report.get("policy"))), "sha256": digest, "uri": uri}
    signed = signature.sign(SIGNED_KIND, statement)
    mlflow.set_model_version_tag(version.dataset, version.version, SIGNATURE_TAG, signed)
    mlflow.set_model_version_tag(version.dataset, version.version, REPORT_TAG, uri)
    registry.set_verdict(version.dataset, version.version, report)


def verified_target(version: RegisteredVersion) -> ServingTarget:
    """A version with the gate's report that lets it serve.

    Raises:
        RegistryError: there is no report, or it is not signed by the gate, was changed, is of another version or
            artifact, does not say PROMOTE, or its parent's report is not valid.
    """
    statement = _signed_statement(version)
    text = registry.read_text(version, str(statement["uri"]))
    if _sha256(text.encode()) != statement["sha256"]:
        raise RegistryError(f"{version}: its gate report was changed after the gate signed it (the hash differs)")
    report = json.loads(text)
    if report.get("verdict") != PROMOTE:
        raise RegistryError(f"{version}: its gate report says {report.get('verdict')}, not {PROMOTE}")
    if (report.get("dataset"), report.get("version")) != (version.dataset, version.version):
        raise RegistryError(f"{version}: its gate report is of {report.get('dataset')} {report.get('version')}")
    if not report.get("artifact") == version.artifact == stored_digest(version):
        raise RegistryError(f"{version}: its gate report is of another artifact")
    if "under" in report:
        _check_refit_parent(version, report["under"])
    return ServingTarget(version, report)


def justification(version: RegisteredVersion) -> str:
    """The signed text that lets a version serve: the override that made it champion, else the gate's statement."""
    record = alias_changes.read_record(version.dataset)
    override = record.standing_override()
    if override is not None and override.champion == version.version:
        return record.entries[override.serial]
    return registry_client().get_model_version(version.dataset, version.version).tags[SIGNATURE_TAG]


def report_digest(version: RegisteredVersion) -> str:
    """Hash of a version's report, as the gate signed it."""
    return str(_signed_statement(version)["sha256"])


def _check_refit_parent(version: RegisteredVersion, under: dict) -> None:
    """Raise RegistryError unless a refit may serve under its parent's report, which `under` names by version and hash."""
    parent = find_version(version.dataset, str(under.get("version")))
    subject = f"{version}: its parent, version {parent.version},"
    if registry.read_manifest(version).get("refit_of") != {"version": parent.version, "artifact": parent.artifact}:
        raise RegistryError(f"{version}: its gate report names version {parent.version}, of which it is no refit")
    if registry.refit_parent(parent) is not None:
        raise RegistryError(f"{subject} is a refit itself, which was not judged on later events")
    if not alias_changes.read_record(version.dataset).was_promoted(parent.version):
        raise RegistryError(f"{subject} was never promoted by the gate")
    try:
        verified_target(parent)
    except RegistryError as error:
        raise RegistryError(f"{subject} may not serve: {error}") from None
    if report_digest(parent) != under.get("report"):
        raise RegistryError(f"{subject} has another gate report than at the time of the refit")


def _override_report(version: RegisteredVersion, override: AliasChange) -> dict:
    """What takes the place of the gate's report for a champion that an emergency override made."""
    if not override.artifact == version.artifact == stored_digest(version):
        raise RegistryError(f"{version}: its override is of another artifact")
    tags = registry_client().get_model_version(version.dataset, version.version).tags
    return {
        "verdict": OVERRIDE_VERDICT,
        "reason": f"{WITHOUT_GATE}: {override.reason}",
        "dataset": version.dataset,
        "version": version.version,
        "artifact": version.artifact,
        "label": tags.get("label", "a model"),
        "against_version": override.before.get(CHAMPION),
        "policy": {},
        "evidence": {},
        "date": override.changed_at,
        "advice": "find a candidate that passes the gate: its promotion ends the override",
    }


def _signed_statement(version: RegisteredVersion) -> dict:
    tags = registry_client().get_model_version(version.dataset, version.version).tags
    if SIGNATURE_TAG not in tags:
        problem = "its gate report is not signed" if REPORT_TAG in tags else "it has no gate report"
        raise RegistryError(f"{version}: {problem}; {how_to_justify(version.version)}")
    return signature.verify(SIGNED_KIND, tags[SIGNATURE_TAG], f"{version}: its gate report")


def _sha256(content: bytes) -> str:
    return sha256(content).hexdigest()
