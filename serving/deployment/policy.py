"""Whether a champion passed the gate under the policy that is committed now: the section `gate` of params.yaml."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from config import params
from config.command import UserError
from config.paths import ROOT, WORKSPACES
from training import provenance

IGNORED_POLICY_FIELDS = {"refit"}  # options of one run of the gate, on which no verdict rests


def committed_policy(dataset: str, root: Path = ROOT) -> dict | None:
    """The gate's policy in the project's last commit.

    Outside git, that of the dataset's params.yaml: the project's, or a workspace's; None if neither has this dataset.
    """
    if root == ROOT:
        with suppress(provenance.UnknownCommitError, ValueError, KeyError, TypeError):
            return params.Gate.model_validate(provenance.committed_settings()["gate"]).model_dump(mode="json")
    for path in (root / "params.yaml", root / WORKSPACES / dataset / "params.yaml"):
        with suppress(OSError, UserError):  # commands that run with this file report its errors
            settings = params.load(path)
            if settings.dataset == dataset:
                return settings.gate.model_dump(mode="json")
    return None


def policy_difference(report: dict, current: dict | None) -> str | None:
    """One line on how the policy of a report differs from the current one; None if they agree or cannot be compared."""
    old, new = report.get("policy"), current
    if not old or new is None:
        return None
    names = sorted((old.keys() | new.keys()) - IGNORED_POLICY_FIELDS)
    changes = [f"{name} {old.get(name)} -> {new.get(name)}" for name in names if old.get(name) != new.get(name)]
    version = f"{report.get('dataset')} {report.get('version')}"
    text = f"{version} passed the gate under another policy than that of params.yaml: {', '.join(changes)}"
    return text if changes else None
