"""Which version may serve, and how a version becomes champion: by promotion, rollback or emergency override.

An alias alone proves nothing, because anybody can set one. A version may serve if the newest signed decision made it
champion (serving/deployment/decisions.py) and its own signed gate report says PROMOTE for this version and artifact.
The report of a refit on all events names its parent, and is valid only as long as the parent's report is. A rollback bars
the artifact that it removed from promotion until there is new evidence.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256

from config.current_user import current_user
from data.times import from_iso
from serving.deployment import decisions, registry, signature
from serving.deployment.decisions import (
    OVERRIDE,
    PROMOTION,
    ROLLBACK,
    ROLLOUT_STEP,
    Decision,
    DecisionLog,
    how_to_justify,
)
from serving.deployment.errors import DecidedMeanwhileError
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
from serving.deployment.rollout_stage import Phase, RolloutStage, describe_stage, registered_version
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
    """The version that an alias names, if a signed decision and a gate report, or an override, justify it.

    Raises:
        RegistryError: the alias does not exist or was changed by hand, or as `verified_target`.
    """
    version, log = version_by_alias(dataset, alias), decisions.read_log(dataset)
    if problem := log.alias_problem(alias, version.version if version else None):
        raise RegistryError(problem)
    if version is None:
        raise RegistryError(f"{dataset} has no {alias}; a version becomes one by passing the gate")
    for decision in (log.last_change(), log.pending()):
        if decision is not None and decision.action == OVERRIDE and decision.champion == version.version:
            return ServingTarget(version, _override_report(version, decision))
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
        RegistryError: the verdict is not PROMOTE, the report is of another version or artifact, its parent's report is
            not valid, a rollback bars the artifact, or somebody else decided while the report was stored.
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
    is_new = last is None or last.champion != version or last.action == OVERRIDE
    again, holdout_end = report.get("again"), report.get("holdout_end")
    if is_new and not again and (problem := bar_problem(candidate, holdout_end)):
        raise RegistryError(f"{candidate}: {problem}")
    store_report(candidate, report, html)
    if is_new:
        reason = f"again: {again}; {report.get('reason', '')}" if again else str(report.get("reason", ""))
        _change_champion(candidate, PROMOTION, reason, last, holdout_end=holdout_end)
    if version_number(dataset, CHALLENGER) == version:
        registry_client().delete_registered_model_alias(dataset, CHALLENGER)
    return serving_target(dataset)


def record_verdict(dataset: str, version: str, report: dict) -> None:
    """Show a verdict that changes no alias (HOLD, REJECT, INSUFFICIENT_DATA) on its version."""
    standing = standing_override(dataset)
    if standing is not None and standing.champion == version:
        report = {**report, "reason": f"{report.get('reason')}; OVERRIDE: {describe_override(standing)}"}
    registry.set_verdict(dataset, version, report)


def bar_problem(candidate: RegisteredVersion, holdout_end: str | None) -> str | None:
    """One line if a rollback removed this model and the gate has no later events than those that promoted it; else None.

    The same model is the same artifact, or another one of its recipe (`registry.recipe_of`): it was fitted or exported
    again. `holdout_end` is the time of the last event that the gate judges by.
    """
    manifest = registry.read_manifest(candidate)
    bar = decisions.read_log(candidate.dataset).bar(registry.digest_of(manifest), registry.recipe_of(manifest))
    if bar is None or (holdout_end is not None and from_iso(holdout_end) > from_iso(bar.evidence_end)):
        return None
    rollback = bar.rollback
    return (
        f"rolled back on {rollback.decided_at[:10]} by {rollback.decided_by} ({rollback.reason or 'no reason was given'}); "
        f"it needs evidence on events after {bar.evidence_end[:19]}, or `python -m experiments.gate --again --reason ...`"
    )


def roll_back_aliases(
    dataset: str, reason: str = "", ordered: RolloutStage | None = None, seen: DecisionLog | None = None
) -> ServingTarget:
    """Make the version before the champion again: `previous`, or the one to which a host's stage orders the rollback.

    Another champion than the host's stays (`is_another_champion`), and what the host goes back to becomes `previous`.
    `seen` is the log by which the order was found to be the newest decision.
    If this is interrupted and run again, it rolls back once. A version that was champion only by an override does not
    become `previous`. The artifact that is removed may not be promoted again without new evidence (`bar_problem`).

    Raises:
        RegistryError: there is no previous version, its report does not justify it, or an alias was changed by hand.
        DecidedMeanwhileError: somebody else decided at the same time.
    """
    completed = decisions.complete_decision(dataset)
    if completed is not None and completed.action == ROLLBACK and ordered is None:
        return serving_target(dataset)
    log = decisions.read_log(dataset)
    if seen is not None and log.last_hash != seen.last_hash:
        raise decisions.decided_meanwhile(dataset, log.last())
    champion = log.aliases[CHAMPION]
    problem = log.alias_problem(CHAMPION, champion)
    if problem and not (champion is None and log.deleted_version(CHAMPION)):
        raise RegistryError(problem)
    last = log.last_change()
    removed = champion or (last.champion if last else None)
    former = removed
    if ordered is None:
        target, facts = serving_target(dataset, PREVIOUS), {}
    else:
        former = removed = registered_version(ordered.version)
        target = verified_target(find_version(dataset, registered_version(ordered.previous or "")))
        facts = {"decided_by": ordered.by, "decided_at": ordered.since.isoformat()}
        reason = ordered.reason
        if last is not None and is_another_champion(last, ordered):
            former, target = target.version.version, serving_target(dataset)
    _change_champion(target.version, ROLLBACK, reason, last, former=former, removed=log.artifact_of(removed), **facts)
    return target


def is_another_champion(last: Decision, ordered: RolloutStage) -> bool:
    """Whether the champion is neither what a host rolls back from nor what it goes back to: its rollback is not about it.

    Only by force does it take such a champion from the other hosts.
    """
    versions = [registered_version(version) for version in (ordered.version, ordered.previous) if version]
    return last.champion not in versions and not ordered.forced


def record_rollout_step(dataset: str, stage: RolloutStage) -> RolloutStage | None:
    """Record a step of a rollout, once; the stage, with this decision as the newest that this host has seen.

    None if another version is champion by now, so that the step is not wanted.

    Raises:
        RegistryError: the registry is out of reach, or does not hold what this host has seen.
    """
    decisions.complete_decision(dataset)
    log, share = decisions.read_log(dataset), 1.0 if stage.phase is Phase.SWITCH else stage.share
    log.check_holds(stage.serial, stage.entry)
    last = log.last()
    if last is None or last.champion != registered_version(stage.version):
        return None
    if (last.action, last.phase, last.share) != (ROLLOUT_STEP, stage.phase, share):
        reason = describe_stage(stage)
        facts = {"phase": str(stage.phase), "share": share}
        try:
            decisions.apply_decision(dataset, ROLLOUT_STEP, reason, last.artifact, last.after, last, **facts)
        except DecidedMeanwhileError:
            return record_rollout_step(dataset, stage)
        log = decisions.read_log(dataset)
    return stage.model_copy(update={"serial": log.last_serial, "entry": log.last_hash})


def override(dataset: str, version: str, reason: str) -> ServingTarget:
    """Make a version the champion without the gate's approval, in an emergency.

    This is the only way forward if the decision log itself cannot be trusted any more.

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


def standing_override(dataset: str) -> Decision | None:
    """The emergency override that made the present champion; None if the gate promoted it."""
    return decisions.read_log(dataset).standing_override()


def describe_override(override: Decision) -> str:
    """One line for logs, status and reports."""
    by = f"{override.decided_by}, {override.decided_at[:19]}Z"
    return f"{override.dataset} {override.champion} is champion {WITHOUT_GATE}: {override.reason} ({by})"


def settle_aliases(dataset: str) -> Decision | None:
    """Complete a decision that was interrupted; the newest one that changed the aliases, None if nothing was ever signed."""
    decisions.complete_decision(dataset)
    return decisions.read_log(dataset).last_change()


def restore_aliases(dataset: str) -> Decision:
    """Set aliases that were changed by hand to what the last signed decision names.

    Raises:
        RegistryError: there is no such decision, or its champion was deleted.
    """
    last = settle_aliases(dataset)
    if last is None:
        raise RegistryError(
            f"{dataset}: no decision is signed, so there is nothing to restore; `python -m experiments.gate` finds a first "
            "champion"
        )
    log = decisions.read_log(dataset)
    if problem := log.deleted_version(CHAMPION):
        raise RegistryError(problem)
    if not decisions.set_aliases(last, log):
        raise decisions.decided_meanwhile(dataset, decisions.read_log(dataset).last())
    return last


def _change_champion(
    champion: RegisteredVersion,
    action: str,
    reason: str,
    last: Decision | None,
    former: str | None = None,
    **facts: str | None,
) -> None:
    """Sign and apply the decision that makes a version champion; `last` is the one that changed the aliases before.

    The former champion becomes `previous`, or the version before it if only an override justified it, or if it is still on
    trial next to that one.
    """
    newest = decisions.read_log(champion.dataset).last() if last else None
    is_on_trial = newest is not None and newest.action == ROLLOUT_STEP and newest.phase != Phase.SWITCH
    if last and former is None:
        former = last.after[PREVIOUS] if is_on_trial else last.champion
    if last and former == champion.version:
        former = last.after[PREVIOUS]
    elif last and former and (last.action == OVERRIDE or former != last.champion):
        try:
            verified_target(find_version(champion.dataset, former))
        except RegistryError:
            former = last.after[PREVIOUS]
    if last and former and not registry.is_registered(champion.dataset, former):
        former = last.after[PREVIOUS]
    after = {CHAMPION: champion.version, PREVIOUS: former if former != champion.version else None}
    with suppress(RegistryError):  # the recipe is only for a later `bar_problem`
        facts["recipe"] = registry.recipe_of(registry.read_manifest(champion))
    decisions.apply_decision(champion.dataset, action, reason, champion.artifact, after, last, **facts)


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
    log = decisions.read_log(version.dataset)
    override = log.standing_override()
    if override is not None and override.champion == version.version:
        return log.entries[override.serial]
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
    if not decisions.read_log(version.dataset).was_promoted(parent.version):
        raise RegistryError(f"{subject} was never promoted by the gate")
    try:
        verified_target(parent)
    except RegistryError as error:
        raise RegistryError(f"{subject} may not serve: {error}") from None
    if report_digest(parent) != under.get("report"):
        raise RegistryError(f"{subject} has another gate report than at the time of the refit")


def _override_report(version: RegisteredVersion, override: Decision) -> dict:
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
        "date": override.decided_at,
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
