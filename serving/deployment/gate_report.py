"""A gate report beside the version that it is of, and the signature that says who wrote it and of what.

The signature covers verdict, data set, version, artifact, policy, date and every byte of the report, and names the file:
a report of another day lies elsewhere, so that one tag says which counts.

A version that was refitted on all events has no later ones to be judged on. Its report says `under` whose it serves: the
parent's version and the hash of the parent's report, which must hold, too, whenever the refit's is asked for.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from config import params
from config.command import UserError
from config.paths import ROOT, WORKSPACES
from serving.deployment import alias_changes, model_versions, signature
from serving.deployment.alias_changes import advice
from serving.deployment.model_versions import (
    RegistryError,
    Version,
    client,
    find,
    parent_of,
    read,
    stored_digest,
    stored_manifest,
)
from serving.deployment.signature import canonical

PROMOTE = "PROMOTE"
KIND = "gate report"
REPORT_TAG, SIGNATURE_TAG = "gate_report", "gate_report_signature"


def keep(version: Version, report: dict, html: str | None) -> None:
    """Log the report into the version's run, sign it, and show its verdict on the version."""
    text = json.dumps(report, indent=1, sort_keys=True, default=str)
    digest = sha256(text.encode()).hexdigest()
    folder = f"gate-v{version.version}/{digest[:12]}"
    registry = client()
    registry.log_text(version.run_id, text, f"{folder}/report.json")
    if html is not None:
        registry.log_text(version.run_id, html, f"{folder}/report.html")
    uri = f"runs:/{version.run_id}/{folder}/report.json"
    signed = signature.sign(KIND, {**_subject(json.loads(text)), "sha256": digest, "uri": uri})
    registry.set_model_version_tag(version.dataset, version.version, SIGNATURE_TAG, signed)
    registry.set_model_version_tag(version.dataset, version.version, REPORT_TAG, uri)
    model_versions.verdict(registry, version.dataset, version.version, report)


def verified(version: Version) -> dict:
    """The report that lets a version serve.

    Raises:
        RegistryError: there is none, or it is not signed by the gate, was changed since, is of another version or
            artifact, does not say PROMOTE, or rests on a parent's that does not hold.
    """
    name, signed = f"{version.dataset} {version.version}", _signed(version)
    text = read(str(signed["uri"]), name)
    if sha256(text.encode()).hexdigest() != signed["sha256"]:
        raise RegistryError(f"{name}: its gate report was changed after the gate signed it (the hash differs)")
    report = json.loads(text)
    if _subject(report) != {key: signed.get(key) for key in _subject(report)}:
        raise RegistryError(f"{name}: its gate report is of something else than its signature says")
    if report.get("verdict") != PROMOTE:
        raise RegistryError(f"{name}: its gate report says {report.get('verdict')}, not {PROMOTE}")
    if (report.get("dataset"), report.get("version")) != (version.dataset, version.version):
        raise RegistryError(f"{name}: its gate report is of {report.get('dataset')} {report.get('version')}")
    if not report.get("artifact") == version.artifact == stored_digest(version):
        raise RegistryError(f"{name}: its gate report is of another artifact")
    if "under" in report:
        check_parent(version, report["under"])
    return report


def check_parent(version: Version, under: dict) -> None:
    """Hold a refit to the version under whose report it serves.

    Raises:
        RegistryError: it is no refit of that version, or that version was never promoted, is a refit itself, or has no
            valid report, or another one by now.
    """
    name = f"{version.dataset} {version.version}"
    parent = find(version.dataset, str(under.get("version")))
    told = f"{name}: its parent, version {parent.version},"
    if stored_manifest(version).get("refit_of") != {"version": parent.version, "artifact": parent.artifact}:
        raise RegistryError(f"{name}: its gate report rests on version {parent.version}, of which it is no refit")
    if parent_of(parent) is not None:
        raise RegistryError(f"{told} is a refit itself, which nothing later has judged")
    if not alias_changes.read(version.dataset).promoted(parent.version):
        raise RegistryError(f"{told} was never promoted by the gate")
    try:
        verified(parent)
    except RegistryError as error:
        raise RegistryError(f"{told} may not serve: {error}") from None
    if digest(parent) != under.get("report"):
        raise RegistryError(f"{told} has another gate report than the one that it was refitted under")


def digest(version: Version) -> str:
    """Hash of a version's report, as the gate signed it."""
    return str(_signed(version)["sha256"])


def _signed(version: Version) -> dict:
    """What the signature of a version's report says."""
    name = f"{version.dataset} {version.version}"
    tags = client().get_model_version(version.dataset, version.version).tags
    if SIGNATURE_TAG not in tags:
        what = "its gate report is not signed" if REPORT_TAG in tags else "it has no gate report"
        raise RegistryError(f"{name}: {what}; {advice(version.version)}")
    return signature.verified(KIND, tags[SIGNATURE_TAG], f"{name}: its gate report")


def _subject(report: dict) -> dict:
    """What a report is of, by which policy and when."""
    named = {key: report.get(key) for key in ("verdict", "dataset", "version", "artifact", "date")}
    return {**named, "policy": sha256(canonical(report.get("policy"))).hexdigest()}


ONCE = ("refit",)  # what a run of the gate may ask beyond params.yaml, and no verdict rests on


def current(dataset: str, root: Path = ROOT) -> dict | None:
    """The policy of a data set's params.yaml, the project's or a workspace's; None where neither is of this data set."""
    for path in (root / "params.yaml", root / WORKSPACES / dataset / "params.yaml"):
        try:
            settings = params.load(path)
        except (OSError, UserError):  # who runs a verb by it is told
            continue
        if settings.dataset == dataset:
            return settings.gate.model_dump(mode="json")
    return None


def difference(report: dict, now: dict | None) -> str | None:
    """One line on what differs; None where nothing does, or nothing can be compared."""
    then = report.get("policy")
    if not then or now is None:
        return None
    names = sorted((then.keys() | now.keys()) - set(ONCE))
    found = [f"{name} {then.get(name)} -> {now.get(name)}" for name in names if then.get(name) != now.get(name)]
    if not found:
        return None
    return f"{report.get('dataset')} {report.get('version')} passed by another policy than params.yaml has: {', '.join(found)}"
