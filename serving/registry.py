"""MLflow's model registry: one registered model per data set, and the gate reports that move its aliases.

    champion     the version that should serve
    previous     the champion before it, kept loaded for a quick way back
    challenger   the version that waits for the gate

An alias is not evidence: anyone can set one. What may serve is a version whose own gate report says PROMOTE
for this very version and artifact, and still has the hash that promotion wrote beside it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from serving import descriptions
from serving.versions import (
    RegistryError,
    Version,
    aliased,
    client,
    create_version,
    download,
    find,
    read,
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
    "promote",
    "registered",
    "rollback",
    "serving_target",
]

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
PROMOTE = "PROMOTE"
REPORT_TAG, HASH_TAG = "gate_report", "gate_report_hash"


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
    """Keep the gate's report as an artifact of the version, then make the version the champion.

    Killed in between and run again, it ends in the same state: the champion before it as `previous`.

    Args:
        report: the gate's verdict and evidence; `dataset`, `version` and `artifact` are added to it.
        html: the same for reading, kept beside it.

    Raises:
        RegistryError: the verdict is not PROMOTE, or the report is of another version or artifact.
    """
    candidate = find(dataset, version)
    stated = {"dataset": dataset, "version": version, "artifact": stored_digest(candidate)}
    for key, value in stated.items():
        if str(report.get(key, value)) != value:
            raise RegistryError(f"the report is of {key} {report[key]}, not of {value}")
    report = {**report, **stated}
    if report.get("verdict") != PROMOTE:
        raise RegistryError(f"{dataset} {version}: the verdict is {report.get('verdict')}, so no alias moves")
    _keep_report(candidate, report, html)
    registry = client()
    champion = aliased(dataset, CHAMPION)
    if champion is not None and champion.version != version:
        registry.set_registered_model_alias(dataset, PREVIOUS, champion.version)
    registry.set_registered_model_alias(dataset, CHAMPION, version)
    challenger = aliased(dataset, CHALLENGER)
    if challenger is not None and challenger.version == version:
        registry.delete_registered_model_alias(dataset, CHALLENGER)
    return justified(candidate)


def note_verdict(dataset: str, version: str, report: dict) -> None:
    """Show a verdict that moves no alias (HOLD, REJECT, INSUFFICIENT_DATA) on the version that it is of.

    Raises:
        RegistryError: there is no such version.
    """
    descriptions.verdict(client(), dataset, find(dataset, version).version, report)


def serving_target(dataset: str, alias: str = CHAMPION) -> Target:
    """The version that an alias names, if its own gate report justifies it.

    Raises:
        RegistryError: there is no such alias, or no report, or the report was changed, is of another version
            or artifact, or does not say PROMOTE.
    """
    version = aliased(dataset, alias)
    if version is None:
        raise RegistryError(f"{dataset} has no {alias}; a version becomes one by passing the gate")
    return justified(version)


def rollback(dataset: str) -> Target:
    """Swap champion and previous; the report that once justified the previous one does so again.

    Raises:
        RegistryError: there is no previous version, or its report does not justify it.
    """
    champion = aliased(dataset, CHAMPION)
    target = serving_target(dataset, PREVIOUS)
    if champion is not None and champion.version == target.version.version:
        raise RegistryError(f"{dataset} {champion.version} is champion and previous alike; nothing to go back to")
    registry = client()
    registry.set_registered_model_alias(dataset, CHAMPION, target.version.version)
    if champion is not None:
        registry.set_registered_model_alias(dataset, PREVIOUS, champion.version)
    return target


def justified(version: Version) -> Target:
    """The version with the gate's report that lets it serve.

    Raises:
        RegistryError: there is none, or it was changed, is of another version or artifact, or does not say PROMOTE.
    """
    name = f"{version.dataset} {version.version}"
    tags = client().get_model_version(version.dataset, version.version).tags
    if REPORT_TAG not in tags or HASH_TAG not in tags:
        raise RegistryError(f"{name} has no gate report: its alias was not moved by the gate")
    text = read(tags[REPORT_TAG], name)
    if _hash(text) != tags[HASH_TAG]:
        raise RegistryError(f"{name}: its gate report was changed after the gate wrote it (the hash differs)")
    report = json.loads(text)
    if report.get("verdict") != PROMOTE:
        raise RegistryError(f"{name}: its gate report says {report.get('verdict')}, not {PROMOTE}")
    if (report.get("dataset"), report.get("version")) != (version.dataset, version.version):
        raise RegistryError(f"{name}: its gate report is of {report.get('dataset')} {report.get('version')}")
    if not report.get("artifact") == version.artifact == stored_digest(version):
        raise RegistryError(f"{name}: its gate report is of another artifact")
    return Target(version, report)


def _keep_report(version: Version, report: dict, html: str | None) -> None:
    folder = f"gate-v{version.version}"
    text = json.dumps(report, indent=1, sort_keys=True, default=str)
    registry = client()
    registry.log_text(version.run_id, text, f"{folder}/report.json")
    if html is not None:
        registry.log_text(version.run_id, html, f"{folder}/report.html")
    uri = f"runs:/{version.run_id}/{folder}/report.json"
    registry.set_model_version_tag(version.dataset, version.version, REPORT_TAG, uri)
    registry.set_model_version_tag(version.dataset, version.version, HASH_TAG, _hash(text))
    descriptions.verdict(registry, version.dataset, version.version, report)


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
