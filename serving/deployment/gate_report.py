"""The gate's signed report of a version: store it, and verify it before the version serves.

The signature covers the verdict, dataset, version, artifact, policy, date and every byte of the report, and names the
report's file. A newer report is another file, and one tag says which file counts.

A refit on all events has no later events to be judged on. Its report names its parent under `under` (the parent's version
and the hash of the parent's report), and is valid only as long as the parent's report is.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from config import params
from config.command import UserError
from config.paths import ROOT, WORKSPACES
from serving.deployment import alias_changes, registry, signature
from serving.deployment.alias_changes import AliasChange, how_to_justify
from serving.deployment.registry import CHAMPION, RegisteredVersion, RegistryError, registry_client, stored_digest
from serving.deployment.signature import canonical_json

PROMOTE = "PROMOTE"
OVERRIDE_VERDICT = "OVERRIDE"  # in place of a verdict, for a champion that an emergency override made
SIGNED_KIND = "gate report"
REPORT_TAG, SIGNATURE_TAG = "gate_report", "gate_report_signature"
IGNORED_POLICY_FIELDS = ("refit",)  # options of one run of the gate, on which no verdict rests


def store_report(version: RegisteredVersion, report: dict, html: str | None) -> None:
    """Log the report to the version's run, sign it, and show its verdict on the version."""
    text = json.dumps(report, indent=1, sort_keys=True, default=str)
    digest = _sha256(text)
    folder = f"gate-v{version.version}/{digest[:12]}"
    mlflow = registry_client()
    mlflow.log_text(version.run_id, text, f"{folder}/report.json")
    if html is not None:
        mlflow.log_text(version.run_id, html, f"{folder}/report.html")
    uri = f"runs:/{version.run_id}/{folder}/report.json"
    signed = signature.sign(SIGNED_KIND, {**_signed_fields(json.loads(text)), "sha256": digest, "uri": uri})
    mlflow.set_model_version_tag(version.dataset, version.version, SIGNATURE_TAG, signed)
    mlflow.set_model_version_tag(version.dataset, version.version, REPORT_TAG, uri)
    registry.set_verdict(version.dataset, version.version, report)


def verified_report(version: RegisteredVersion) -> dict:
    """The report that lets a version serve.

    Raises:
        RegistryError: there is none, or it is not signed by the gate, was changed, is of another version or artifact,
            does not say PROMOTE, or its parent's report is not valid.
    """
    statement = _signed_statement(version)
    text = registry.read_text(version, str(statement["uri"]))
    if _sha256(text) != statement["sha256"]:
        raise RegistryError(f"{version}: its gate report was changed after the gate signed it (the hash differs)")
    report = json.loads(text)
    fields = _signed_fields(report)
    if fields != {key: statement.get(key) for key in fields}:
        raise RegistryError(f"{version}: its gate report and the report's signature differ")
    if report.get("verdict") != PROMOTE:
        raise RegistryError(f"{version}: its gate report says {report.get('verdict')}, not {PROMOTE}")
    if (report.get("dataset"), report.get("version")) != (version.dataset, version.version):
        raise RegistryError(f"{version}: its gate report is of {report.get('dataset')} {report.get('version')}")
    if not report.get("artifact") == version.artifact == stored_digest(version):
        raise RegistryError(f"{version}: its gate report is of another artifact")
    if "under" in report:
        check_refit_parent(version, report["under"])
    return report


def check_refit_parent(version: RegisteredVersion, under: dict) -> None:
    """Check that a refit may serve under its parent's report.

    Args:
        under: the `version` and the hash of the `report` of the parent.

    Raises:
        RegistryError: the version is no refit of the parent, or the parent was never promoted, is a refit itself, or has
            no valid report or a newer one.
    """
    parent = registry.find_version(version.dataset, str(under.get("version")))
    subject = f"{version}: its parent, version {parent.version},"
    if registry.read_manifest(version).get("refit_of") != {"version": parent.version, "artifact": parent.artifact}:
        raise RegistryError(
            f"{version}: its gate report names version {parent.version}, but it is no refit of that one"
        )
    if registry.refit_parent(parent) is not None:
        raise RegistryError(f"{subject} is a refit itself, which was not judged on later events")
    if not alias_changes.read_record(version.dataset).was_promoted(parent.version):
        raise RegistryError(f"{subject} was never promoted by the gate")
    try:
        verified_report(parent)
    except RegistryError as error:
        raise RegistryError(f"{subject} may not serve: {error}") from None
    if report_digest(parent) != under.get("report"):
        raise RegistryError(f"{subject} has another gate report than at the time of the refit")


def report_digest(version: RegisteredVersion) -> str:
    """Hash of a version's report, as the gate signed it."""
    return str(_signed_statement(version)["sha256"])


def override_report(version: RegisteredVersion, override: AliasChange) -> dict:
    """What takes the place of the gate's report for a champion that an emergency override made.

    Raises:
        RegistryError: the override is of another artifact.
    """
    if not override.artifact == version.artifact == stored_digest(version):
        raise RegistryError(f"{version}: its override is of another artifact")
    tags = registry_client().get_model_version(version.dataset, version.version).tags
    return {
        "verdict": OVERRIDE_VERDICT,
        "reason": override_reason(override.reason),
        "dataset": version.dataset,
        "version": version.version,
        "artifact": version.artifact,
        "label": tags.get("label", "a model"),
        "against_version": override.before.get(CHAMPION),
        "primary": None,
        "policy": {},
        "evidence": {},
        "date": override.changed_at,
        "overrides": [],
        "advice": "find a candidate that passes the gate: its promotion ends the override",
    }


def override_reason(reason: str) -> str:
    """The reason of an override, with what it means."""
    return f"without the gate's approval, until the next promotion: {reason}"


def current_policy(dataset: str, root: Path = ROOT) -> dict | None:
    """The gate's policy in the params.yaml of a dataset: the project's, or a workspace's; None if neither has this dataset."""
    for path in (root / "params.yaml", root / WORKSPACES / dataset / "params.yaml"):
        try:
            settings = params.load(path)
        except (OSError, UserError):  # commands that run with this file report its errors
            continue
        if settings.dataset == dataset:
            return settings.gate.model_dump(mode="json")
    return None


def policy_difference(report: dict, current: dict | None) -> str | None:
    """One line on how the policy of a report differs from the current one; None if they agree or cannot be compared."""
    reported = report.get("policy")
    if not reported or current is None:
        return None
    names = sorted((reported.keys() | current.keys()) - set(IGNORED_POLICY_FIELDS))
    changes = [
        f"{name} {reported.get(name)} -> {current.get(name)}"
        for name in names
        if reported.get(name) != current.get(name)
    ]
    if not changes:
        return None
    version = f"{report.get('dataset')} {report.get('version')}"
    return f"{version} passed the gate under another policy than that of params.yaml: {', '.join(changes)}"


def _signed_statement(version: RegisteredVersion) -> dict:
    tags = registry_client().get_model_version(version.dataset, version.version).tags
    if SIGNATURE_TAG not in tags:
        problem = "its gate report is not signed" if REPORT_TAG in tags else "it has no gate report"
        raise RegistryError(f"{version}: {problem}; {how_to_justify(version.version)}")
    return signature.verify(SIGNED_KIND, tags[SIGNATURE_TAG], f"{version}: its gate report")


def _signed_fields(report: dict) -> dict:
    """The fields of a report that its signature repeats, and the hash of its policy."""
    fields = {key: report.get(key) for key in ("verdict", "dataset", "version", "artifact", "date")}
    return {**fields, "policy": sha256(canonical_json(report.get("policy"))).hexdigest()}


def _sha256(text: str) -> str:
    return sha256(text.encode()).hexdigest()
