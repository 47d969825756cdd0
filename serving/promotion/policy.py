"""Whether a gate report was made by the policy that params.yaml has now. One that was not still counts, and is told:
somebody loosened the policy for a day, or has tightened it since."""

from __future__ import annotations

from pathlib import Path

import params
from command import UserError
from params import ROOT

ONCE = ("refit",)  # what a run of the gate may ask beyond params.yaml, and no verdict rests on


def current(dataset: str, root: Path = ROOT) -> dict | None:
    """The policy of a data set's params.yaml, the project's or a workspace's; None where neither is of this data set."""
    for path in (root / "params.yaml", root / "workspaces" / dataset / "params.yaml"):
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
