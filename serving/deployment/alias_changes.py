"""What a move of a data set's aliases is, and what the signed record of them says the aliases should say."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from config.paths import DEPLOYMENTS
from data import files
from data.times import now_iso
from serving import settings
from serving.deployment import signature
from serving.deployment.deployment_log import who
from serving.deployment.model_versions import RegistryError, aliased, client, find
from serving.deployment.signature import SignatureError
from training.tracking import tracking_uri

SEEN_FILE = "moves_seen.json"
MODELS_KEPT = 200  # models; of the oldest nobody deploys any more


def registry_key(registry: str, dataset: str, created: int | None) -> str:
    """The name of a model, which no other bears; a digest, since the address of a registry may hold a password."""
    return sha256(f"{registry} {dataset} {created}".encode()).hexdigest()[:32]


def last_seen_serial(model: str) -> int:
    """The serial of the last entry that was seen of a model; 0 for none."""
    return _read().get(model, 0)


def remember_serial(model: str, serial: int) -> None:
    known = _read()
    if serial > known.get(model, 0):
        known.pop(model, None)
        _write(dict(list(known.items())[-MODELS_KEPT + 1 :]) | {model: serial})


def forget_serial(model: str) -> None:
    """Take whatever comes next for the newest."""
    known = _read()
    if known.pop(model, None) is not None:
        _write(known)


def seen_serials_path() -> Path:
    return settings.load().state / DEPLOYMENTS / SEEN_FILE


def _read() -> dict[str, int]:
    try:
        known = json.loads(seen_serials_path().read_text())
    except (OSError, ValueError):  # none yet, or cut short by a full disk: what it knew is known no more
        return {}
    return known if isinstance(known, dict) else {}


def _write(known: dict[str, int]) -> None:
    with suppress(OSError):  # a full disk costs this memory, never a rollback
        files.write_bytes(seen_serials_path(), json.dumps(known, indent=1).encode())


CHAMPION, PREVIOUS = "champion", "previous"
PROMOTION, ROLLBACK, OVERRIDE = "promotion", "rollback", "override"
KIND = "alias move"
INTENT, ENTRY = "alias_intent", "alias_move"
WAY_OUT = "where no key of yours is missing, an override is the way out: `python -m serving.deploy --help`"
ENTRY_NAME = re.compile(rf"{ENTRY}\.(\d{{6,}})")


@dataclass(frozen=True)
class Move:
    """One move of champion and previous.

    Attributes:
        serial: 1, 2, ... of the data set.
        why: promotion, rollback or override.
        artifact: digest of what becomes champion.
        before, after: alias -> version, None for no version.
        link: hash of the entry before; empty for the first.
    """

    dataset: str
    serial: int
    why: str
    reason: str
    who: str
    when: str
    artifact: str
    before: dict[str, str | None]
    after: dict[str, str | None]
    link: str

    @property
    def champion(self) -> str | None:
        return self.after.get(CHAMPION)

    def __str__(self) -> str:
        return f"{self.why} of {self.champion} by {self.who}, {self.when}"


@dataclass(frozen=True)
class Record:
    """What a data set's tags hold of its moves; `entries`: serial -> signed text; `model`: as `seen` knows it."""

    dataset: str
    model: str
    entries: dict[int, str]
    intent: str | None

    @property
    def link(self) -> str:
        return sha256(self.entries[max(self.entries)].encode()).hexdigest() if self.entries else ""

    @property
    def next_serial(self) -> int:
        return max(self.entries, default=0) + 1

    def last(self) -> Move | None:
        """The move that the aliases should show; None where none was ever signed.

        Raises:
            RegistryError: the last entry is not signed by a key of ours, or one before or after it is gone.
        """
        if not self.entries:
            return self._as_seen(None)
        serial = max(self.entries)
        move = self._read(self.entries[serial], f"its entry {name_of(serial)}")
        before = self.entries.get(serial - 1)
        linked = sha256(before.encode()).hexdigest() if before is not None else ""
        if move.serial != serial or move.link != linked:
            gap = f"{self.dataset}: its entry {name_of(serial)} does not follow on the one before it"
            raise RegistryError(f"{gap}; {WAY_OUT}")
        return self._as_seen(move)

    def pending(self) -> Move | None:
        """The move that is under way; one that was overtaken is none.

        Raises:
            RegistryError: the intent is not signed by a key of ours.
        """
        if self.intent is None or self.written():
            return None
        move = self._read(self.intent, f"its tag {INTENT}")
        return move if (move.serial, move.link) == (self.next_serial, self.link) else None

    def written(self) -> bool:
        """Whether the intended move lacks nothing but the removal of its intent."""
        return bool(self.entries) and self.intent == self.entries[max(self.entries)]

    def current(self) -> Move | None:
        """The move under way, else the last one."""
        return self.pending() or self.last()

    def promoted(self, version: str) -> bool:
        """Whether the gate ever made a version champion, by an entry that a key of ours still verifies."""
        for serial, text in self.entries.items():
            with suppress(RegistryError):
                move = self._read(text, f"its entry {name_of(serial)}")
                if (move.why, move.champion) == (PROMOTION, version):
                    return True
        return False

    def fault(self, alias: str, says: str | None) -> str | None:
        """One line on an alias that no signed move explains; None where one does.

        Args:
            says: the version that the alias names.
        """
        pending = self.pending()
        if pending is not None:
            if says in (pending.before.get(alias), pending.after.get(alias)):
                return None
        elif (last := self.last()) is None:
            return (
                None if says is None else f"{self.dataset}: {alias} {says} stands without a signed move; {advice(says)}"
            )
        elif says == last.after.get(alias):
            return None
        told = pending or self.last()
        assert told is not None
        return (
            f"{self.dataset}: {alias} was moved by hand: it says {says or 'nothing'}, the last signed move says "
            f"{told.after.get(alias) or 'nothing'} ({told}); `python -m serving.deploy --restore` puts it back"
        )

    def _as_seen(self, last: Move | None) -> Move | None:
        """The last move, unless this machine has seen one that came after it."""
        if max(self.entries, default=0) < (gone := last_seen_serial(self.model)):
            raise RegistryError(f"{self.dataset}: its entry {name_of(gone)}, which was seen here, is gone; {WAY_OUT}")
        return last

    def _read(self, text: str, which: str) -> Move:
        keys = signature.load()
        try:
            told = keys.verified(KIND, text, f"{self.dataset}: {which}")
        except SignatureError as error:
            raise SignatureError(f"{error}; {WAY_OUT}") from None
        if told.get("dataset") != self.dataset:
            raise RegistryError(f"{self.dataset}: {which} is of {told.get('dataset')}")
        return Move(**{name: value for name, value in told.items() if name not in ("kind", "key")})


def advice(version: str) -> str:
    """What to do about a version that nothing signed justifies."""
    override = f"`python -m serving.deploy --override {version} --reason ...`"
    return f"judge anew by `python -m experiments.gate`, or, in an emergency, {override}"


def name_of(serial: int) -> str:
    """The tag of an entry."""
    return f"{ENTRY}.{serial:06d}"


def read(dataset: str) -> Record:
    """The record of a data set; an empty one where nothing is registered."""
    from mlflow.exceptions import MlflowException

    tags, created = {}, None
    try:
        model = client().get_registered_model(dataset)
        tags, created = model.tags, model.creation_timestamp
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise RegistryError(f"the registry cannot be read: {' '.join(str(error).split())[:300]}") from None
    found = ((ENTRY_NAME.fullmatch(name), text) for name, text in tags.items())
    return Record(
        dataset,
        registry_key(tracking_uri(), dataset, created),
        {int(match[1]): text for match, text in found if match},
        tags.get(INTENT),
    )


def make(dataset: str, why: str, reason: str, artifact: str, after: dict[str, str | None], past: Move | None) -> None:
    """Sign a move and carry it out.

    Args:
        after: champion and previous -> version, None to have no such alias.
        past: the last move; None takes what the aliases say now for what was before.

    Raises:
        RegistryError: somebody else moved them meanwhile.
    """
    record = read(dataset)
    if why == OVERRIDE:  # the way out, also of a record that went back
        forget_serial(record.model)
    before = past.after if past else {alias: _says(dataset, alias) for alias in after}
    now = now_iso()
    move = Move(dataset, record.next_serial, why, reason, who(), now, artifact, before, after, record.link)
    client().set_registered_model_tag(dataset, INTENT, signature.sign(KIND, asdict(move)))
    finish(dataset)
    if (last := read(dataset).last()) != move:
        raise RegistryError(
            f"{dataset}: somebody else moved its aliases at the same time ({last}); look, then try again"
        )


def finish(dataset: str) -> Move | None:
    """Complete a move that was cut short; the move, None where nothing was under way.

    Raises:
        RegistryError: the intent is not signed by a key of ours, or a version that it names is gone.
    """
    record = read(dataset)
    if record.intent is None:
        _take_note(record)
        return None
    registry = client()
    move = record.last() if record.written() else record.pending()
    if move is not None and not record.written():
        show(move)
        registry.set_registered_model_tag(dataset, name_of(move.serial), record.intent)
    registry.delete_registered_model_tag(dataset, INTENT)
    _take_note(read(dataset))
    return move


def _take_note(record: Record) -> None:
    """Remember the record as it stands, if it is to be believed."""
    with suppress(RegistryError):
        if record.last() is not None:
            remember_serial(record.model, max(record.entries))


def show(move: Move) -> None:
    """Have the aliases say what a move says."""
    registry = client()
    for alias in (PREVIOUS, CHAMPION):  # in this order the champion before is never without a name
        wanted, says = move.after.get(alias), _says(move.dataset, alias)
        if wanted == says:
            continue
        if wanted is None:
            registry.delete_registered_model_alias(move.dataset, alias)
        else:
            registry.set_registered_model_alias(move.dataset, alias, find(move.dataset, wanted).version)


def _says(dataset: str, alias: str) -> str | None:
    version = aliased(dataset, alias)
    return version.version if version else None
