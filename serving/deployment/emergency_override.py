"""The emergency override: a champion without the gate's word, signed, with a reason, and loud until a promotion ends it."""

from __future__ import annotations

from serving.deployment import alias_changes, model_versions
from serving.deployment.alias_changes import CHAMPION, OVERRIDE, Move
from serving.deployment.model_versions import RegistryError, Version, client, stored_digest

VERDICT = "OVERRIDE"  # stands where a verdict would, had anybody judged
LEAST_WORDS = 3


def checked(reason: str) -> str:
    """The reason in one line.

    Raises:
        RegistryError: it is too short to be one.
    """
    words = reason.split()
    if len(words) < LEAST_WORDS:
        raise RegistryError(f"--reason is {reason!r}; an override needs one of at least {LEAST_WORDS} words")
    return " ".join(words)


def announce(version: Version, reason: str) -> None:
    """Say on the version, in MLflow, that no gate let it serve."""
    said = {"verdict": VERDICT, "reason": f"by {alias_changes.who()}, {_told(reason)}"}
    model_versions.verdict(client(), version.dataset, version.version, said)


def standing(dataset: str) -> dict | None:
    """The override by which the champion stands: version, reason, who, when, and all of it in a `line`; None without.

    Raises:
        RegistryError: the record of moves is not to be believed.
    """
    move = alias_changes.read(dataset).current()
    if move is None or move.why != OVERRIDE:
        return None
    line = f"{dataset} {move.champion} is champion {_told(move.reason)} ({move.who}, {move.when})"
    return {"version": move.champion, "reason": move.reason, "who": move.who, "when": move.when, "line": line}


def report(version: Version, move: Move) -> dict:
    """What is read in place of the gate's report.

    Raises:
        RegistryError: the override is of another artifact.
    """
    if not move.artifact == version.artifact == stored_digest(version):
        raise RegistryError(f"{version.dataset} {version.version}: its override is of another artifact")
    tags = client().get_model_version(version.dataset, version.version).tags
    return {
        "verdict": VERDICT,
        "reason": _told(move.reason),
        "dataset": version.dataset,
        "version": version.version,
        "artifact": version.artifact,
        "label": tags.get("label", "a model"),
        "against_version": move.before.get(CHAMPION),
        "primary": None,
        "policy": {},
        "evidence": {},
        "date": move.when,
        "overrides": [],
        "advice": "find a candidate that passes the gate: its promotion ends the override",
    }


def _told(reason: str) -> str:
    return f"without the gate's word, until the next promotion: {reason}"
