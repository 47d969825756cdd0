"""What a move of a data set's aliases is, and what the signed record of them says the aliases should say."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256

from serving.promotion import seen, signature
from serving.promotion.signature import SignatureError
from serving.promotion.versions import RegistryError

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
        if max(self.entries, default=0) < (gone := seen.last(self.model)):
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
