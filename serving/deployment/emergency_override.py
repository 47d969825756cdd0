"""Make a version champion without the gate's approval, in an emergency.

An override is signed and needs a reason. Each deployment, the status, the version's description and the gate's reports
show it until the next promotion ends it.
"""

from __future__ import annotations

from serving.deployment import alias_changes, registry, signature
from serving.deployment.alias_changes import OVERRIDE
from serving.deployment.deployment_log import current_user
from serving.deployment.gate_report import OVERRIDE_VERDICT, override_reason
from serving.deployment.promotion import ServingTarget, change_champion, serving_target
from serving.deployment.registry import RegistryError, find_version, stored_digest

MIN_REASON_WORDS = 3


def override(dataset: str, version: str, reason: str) -> ServingTarget:
    """Make a version the champion without the gate's approval.

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
    # Only the first change may create a key: who has lost the key gets an error, not a second key.
    signature.load_keys(create=not alias_changes.read_record(dataset).entries)
    try:
        alias_changes.complete_change(dataset)
        last = alias_changes.read_record(dataset).last()
    except RegistryError:
        last = None
    if last is None or (last.action, last.champion, last.reason) != (OVERRIDE, version, reason):
        # Marked first, so that the version never serves unmarked if this is interrupted.
        verdict = {"verdict": OVERRIDE_VERDICT, "reason": f"by {current_user()}, {override_reason(reason)}"}
        registry.set_verdict(dataset, version, verdict)
        change_champion(candidate, OVERRIDE, reason, last)
    return serving_target(dataset)
