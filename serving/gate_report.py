"""A gate report beside the version that it is of, and the signature that says who wrote it and of what.

The signature covers verdict, data set, version, artifact, policy, date and every byte of the report, and names the file:
a report of another day lies elsewhere, so that one tag says which counts.
"""

from __future__ import annotations

import json
from hashlib import sha256

from serving import descriptions, signature
from serving.moves import advice
from serving.signature import canonical
from serving.versions import RegistryError, Version, client, read, stored_digest

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
    descriptions.verdict(registry, version.dataset, version.version, report)


def verified(version: Version) -> dict:
    """The report that lets a version serve.

    Raises:
        RegistryError: there is none, or it is not signed by the gate, was changed since, is of another version or
            artifact, or does not say PROMOTE.
    """
    name = f"{version.dataset} {version.version}"
    tags = client().get_model_version(version.dataset, version.version).tags
    if SIGNATURE_TAG not in tags:
        what = "its gate report is not signed" if REPORT_TAG in tags else "it has no gate report"
        raise RegistryError(f"{name}: {what}; {advice(version.version)}")
    signed = signature.verified(KIND, tags[SIGNATURE_TAG], f"{name}: its gate report")
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
    return report


def _subject(report: dict) -> dict:
    """What a report is of, by which policy and when."""
    named = {key: report.get(key) for key in ("verdict", "dataset", "version", "artifact", "date")}
    return {**named, "policy": sha256(canonical(report.get("policy"))).hexdigest()}
