"""Signed changes of the aliases `champion` and `previous`, and rollback protection.

Each change is one signed entry, stored as a tag `alias_change.N` of the registered model, with the hash of the entry
before it. A change is written in three steps: intent, aliases, entry; `complete_change` finishes an interrupted one.
Each machine remembers the newest serial number that it has seen, and refuses a registry with older entries only.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from config.current_user import current_user
from config.paths import DEPLOYMENTS
from data import files
from data.times import now_iso
from serving import settings
from serving.deployment import key_pairs, signature
from serving.deployment.errors import SignatureError
from serving.deployment.registry import (
    CHAMPION,
    PREVIOUS,
    RegistryError,
    is_registered,
    registered_model,
    registry_client,
    version_number,
)
from training.tracking import tracking_uri

PROMOTION, ROLLBACK, OVERRIDE = "promotion", "rollback", "override"
ACTIONS = (PROMOTION, ROLLBACK, OVERRIDE)  # also the kinds of their signatures
INTENT_TAG = "alias_change_intent"
ENTRY_NAME = re.compile(r"alias_change\.(\d{6,})")
OVERRIDE_HINT = "if no key is missing here, only an override helps: see `python -m serving.deploy --help`"

Versions = dict[str, str | None]  # alias -> version, None if the alias does not exist


@dataclass(frozen=True)
class AliasChange:
    """One change of champion and previous."""

    dataset: str
    serial: int  # 1, 2, ... within the dataset
    action: str  # promotion, rollback or override
    reason: str
    changed_by: str
    changed_at: str
    artifact: str  # digest of the artifact that becomes champion
    before: Versions
    after: Versions
    previous_entry: str  # hash of the entry before; empty for the first

    @property
    def champion(self) -> str | None:
        return self.after.get(CHAMPION)

    def __str__(self) -> str:
        return f"{self.action} of {self.champion} by {self.changed_by}, {self.changed_at}"


@dataclass(frozen=True)
class AliasRecord:
    """The signed alias changes of a dataset, as the tags of its registered model hold them."""

    dataset: str
    model_key: str  # identifies the model in this machine's list of newest serials
    entries: dict[int, str]  # serial -> signed text
    intent: str | None  # signed text of a change that has begun

    @property
    def last_serial(self) -> int:
        return max(self.entries, default=0)

    @property
    def last_hash(self) -> str:
        return self._entry_hash(self.last_serial)

    def last(self) -> AliasChange | None:
        """The change that the aliases should show; None if nothing was ever signed.

        Raises:
            RegistryError: the last entry is not signed by a known key, an entry is missing, or this machine has seen a
                newer one.
        """
        change, serial = None, self.last_serial
        if self.entries:
            change = self._verify(self.entries[serial], f"its entry {entry_tag(serial)}")
            if (change.serial, change.previous_entry) != (serial, self._entry_hash(serial - 1)):
                raise RegistryError(
                    f"{self.dataset}: its entry {entry_tag(serial)} does not follow the entry before it; {OVERRIDE_HINT}"
                )
        newest_seen = _read_newest_serials().get(self.model_key, 0)
        if serial < newest_seen:
            raise RegistryError(
                f"{self.dataset}: its entry {entry_tag(newest_seen)}, which this machine has seen, is gone; {OVERRIDE_HINT}"
            )
        return change

    def pending(self) -> AliasChange | None:
        """The change that has begun and is not complete; None also if a later change replaced it."""
        if self.intent is None or self.entry_is_written():
            return None
        change = self._verify(self.intent, f"its tag {INTENT_TAG}")
        is_next = (change.serial, change.previous_entry) == (self.last_serial + 1, self.last_hash)
        return change if is_next else None

    def entry_is_written(self) -> bool:
        """Whether the intended change is complete except for the removal of its intent."""
        return self.intent is not None and self.intent == self.entries.get(self.last_serial)

    def standing_override(self) -> AliasChange | None:
        """The emergency override that made the present champion; None if the gate promoted it."""
        change = self.pending() or self.last()
        return change if change is not None and change.action == OVERRIDE else None

    def was_promoted(self, version: str) -> bool:
        """Whether the gate ever promoted a version, by an entry that a known key still verifies."""
        for serial, text in self.entries.items():
            with suppress(RegistryError):
                change = self._verify(text, f"its entry {entry_tag(serial)}")
                if (change.action, change.champion) == (PROMOTION, version):
                    return True
        return False

    def alias_problem(self, alias: str, version: str | None) -> str | None:
        """One line if no signed change explains that an alias names a version; None if one does."""
        if pending := self.pending():
            change, explained = pending, {pending.before.get(alias), pending.after.get(alias)}
        elif last := self.last():
            change, explained = last, {last.after.get(alias)}
        elif version is None:
            return None
        else:
            return f"{self.dataset}: no signed change made {version} {alias}; {how_to_justify(version)}"
        if version in explained:
            return None
        if version is None and (problem := self.deleted_version(alias)):
            return problem
        return (
            f"{self.dataset}: {alias} was changed by hand: it names {version or 'nothing'}, the last signed change "
            f"names {change.after.get(alias) or 'nothing'} ({change}); `python -m serving.deploy --restore` restores it"
        )

    def deleted_version(self, alias: str) -> str | None:
        """One line if the version that the last signed change gave an alias was deleted; None if it is registered."""
        after = last.after if (last := self.pending() or self.last()) else {}
        number, previous = after.get(alias), after.get(PREVIOUS)
        if number is None or is_registered(self.dataset, number):
            return None
        deleted = f"{self.dataset}: version {number}, the {alias}, was deleted in MLflow"
        if alias == PREVIOUS:
            return f"{deleted}, so there is nothing to roll back to before the next promotion"
        rollback = f"`python -m serving.deploy --rollback` makes {previous} the champion"
        can_roll_back = previous is not None and is_registered(self.dataset, previous)
        return f"{deleted}; {f'{rollback}, and ' if can_roll_back else ''}`--override VERSION --reason ...` any version"

    def _entry_hash(self, serial: int) -> str:
        return _hash(self.entries[serial]) if serial in self.entries else ""

    def _verify(self, text: str, name: str) -> AliasChange:
        key_pairs.trusted()  # missing keys are an error of their own, for which an override is no help
        try:
            statement = signature.verify(ACTIONS, text, f"{self.dataset}: {name}")
        except SignatureError as error:
            raise SignatureError(f"{error}; {OVERRIDE_HINT}") from None
        if (statement["dataset"], statement["action"]) != (self.dataset, statement["kind"]):
            raise RegistryError(f"{self.dataset}: {name} is a {statement['action']} of {statement['dataset']}")
        return AliasChange(**{field: value for field, value in statement.items() if field not in ("kind", "key")})


def read_record(dataset: str) -> AliasRecord:
    """The record of a dataset; an empty one if nothing is registered."""
    model = registered_model(dataset)
    tags, created = (model.tags, model.creation_timestamp) if model else ({}, None)
    matches = ((ENTRY_NAME.fullmatch(name), text) for name, text in tags.items())
    entries = {int(match[1]): text for match, text in matches if match}
    # A digest, because the address of a registry may hold a password.
    model_key = _hash(f"{tracking_uri().partition('?')[0]} {dataset} {created}")[:32]
    return AliasRecord(dataset, model_key, entries, tags.get(INTENT_TAG))


def apply_change(
    dataset: str, action: str, reason: str, artifact: str, after: Versions, last: AliasChange | None
) -> None:
    """Sign a change of the aliases to `after` and carry it out.

    Raises:
        RegistryError: somebody else changed the aliases at the same time.
    """
    record = read_record(dataset)
    if action == OVERRIDE:  # it accepts an older record
        _write_newest_serials(
            {key: serial for key, serial in _read_newest_serials().items() if key != record.model_key}
        )
    change = AliasChange(
        dataset=dataset,
        serial=record.last_serial + 1,
        action=action,
        reason=reason,
        changed_by=current_user(),
        changed_at=now_iso(),
        artifact=artifact,
        before=last.after if last else {alias: version_number(dataset, alias) for alias in after},
        after=after,
        previous_entry=record.last_hash,
    )
    registry_client().set_registered_model_tag(dataset, INTENT_TAG, signature.sign(action, asdict(change)))
    complete_change(dataset)
    if (written := read_record(dataset).last()) != change:
        raise RegistryError(f"{dataset}: somebody else changed its aliases at the same time ({written}); try again")


def complete_change(dataset: str) -> AliasChange | None:
    """Complete a change that was interrupted, if there is one, and remember the newest serial; the completed change.

    Raises:
        RegistryError: the intent is not signed by a known key, or it names a version that does not exist.
    """
    record = read_record(dataset)
    change = None
    if record.intent is not None:
        mlflow = registry_client()
        if record.entry_is_written():
            change = record.last()
        elif change := record.pending():
            set_aliases(change)
            mlflow.set_registered_model_tag(dataset, entry_tag(change.serial), record.intent)
        mlflow.delete_registered_model_tag(dataset, INTENT_TAG)
        record = read_record(dataset)
    _remember_serial(record)
    return change


def set_aliases(change: AliasChange) -> None:
    """Set the aliases to what a change names. A deleted version can no longer be the previous one.

    Raises:
        RegistryError: the champion was deleted.
    """
    mlflow = registry_client()
    for alias in (PREVIOUS, CHAMPION):  # in this order the former champion always has an alias
        old, new = version_number(change.dataset, alias), change.after.get(alias)
        if new is not None and not is_registered(change.dataset, new):
            if alias == CHAMPION:
                raise RegistryError(
                    f"{change.dataset}: version {new}, which {change} made champion, was deleted in MLflow"
                )
            new = None
        if new is not None and new != old:
            mlflow.set_registered_model_alias(change.dataset, alias, new)
        elif new is None and old is not None:
            mlflow.delete_registered_model_alias(change.dataset, alias)


def how_to_justify(version: str) -> str:
    """What to do about a version that no signature justifies."""
    override = f"`python -m serving.deploy --override {version} --reason ...`"
    return f"judge it with `python -m experiments.gate`, or, in an emergency, use {override}"


def entry_tag(serial: int) -> str:
    return f"alias_change.{serial:06d}"


def newest_serials_path() -> Path:
    """The file in which this machine remembers the newest serial of each model."""
    return settings.load().state / DEPLOYMENTS / "newest_alias_changes.json"


def _remember_serial(record: AliasRecord) -> None:
    """Remember the newest serial of a record that can be trusted."""
    serials = _read_newest_serials()
    with suppress(RegistryError):
        if record.last() is not None and record.last_serial > serials.get(record.model_key, 0):
            _write_newest_serials(serials | {record.model_key: record.last_serial})


def _read_newest_serials() -> dict[str, int]:
    try:
        return json.loads(newest_serials_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _write_newest_serials(serials: dict[str, int]) -> None:
    with suppress(OSError):  # a full disk must not prevent a rollback
        files.write_bytes(newest_serials_path(), json.dumps(serials, indent=1).encode())


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()
