"""Whom the gate judges a candidate against: what serves, unless that has seen the window."""

from __future__ import annotations

from data.instants import to_iso
from features.store import Features
from serving import registry
from serving.promotion import versions
from serving.registry import Target, Version


def opponent(dataset: str, candidate: Version, features: Features) -> tuple[Target, str | None]:
    """The champion, and None; or its parent, and why.

    A refit on all events that was fitted beyond the cut knows what the window asks. Its parent, of the same recipe,
    has that window for a holdout. On newer events, which neither has seen, the refit itself is the champion.

    Raises:
        RegistryError: nothing may serve.
    """
    target = registry.opponent(dataset, candidate)
    under, fitted = target.report.get("under"), versions.stored_manifest(target.version).get("fit_until_us")
    if under is None or (isinstance(fitted, int) and fitted <= features.cut_us):
        return target, None
    parent = registry.justified(registry.find(dataset, under["version"]))
    until = to_iso(fitted) if isinstance(fitted, int) else "nobody knows when"
    instead = (
        f"version {target.version.version}, which serves, was fitted on the window (until {until}), so the champion is "
        f"its parent, version {parent.version.version}, which was not"
    )
    return parent, instead
