"""The decision log of a dataset: promotions, rollbacks, overrides and rollout steps in one order, and rollback protection.

Each decision is one signed entry, stored as a tag `decision.N` of the registered model, with the hash of the entry before
it. It is written in three steps: intent, aliases, entry; `complete_decision` finishes an interrupted one. One process of a
machine writes at a time. For writers on other machines the log is read again before each write, and one that was overtaken
stops. Each host remembers the newest entry that it has seen, by serial and hash, and refuses a registry that does not hold it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from config import files, paths
from config.current_user import current_user
from serving import settings
from serving.deployment import key_pairs, signature
from serving.deployment.errors import DecidedMeanwhileError, SignatureError
from serving.deployment.registry import (
    CHAMPION,
    PREVIOUS,
    RegistryError,
    is_registered,
    registered_model,
    registry_client,
)
from serving.deployment.rollout_stage import utc_now
from training.tracking import tracking_uri

PROMOTION, ROLLBACK, OVERRIDE, ROLLOUT_STEP = "promotion", "rollback", "override", "rollout step"
ACTIONS = (PROMOTION, ROLLBACK, OVERRIDE, ROLLOUT_STEP)  # also the kinds of their signatures
INTENT_TAG = "decision_intent"
ENTRY_NAME = re.compile(r"decision\.(\d{6,})")
OVERRIDE_HINT = "if no key is missing here, only an override helps: see `python -m serving.deploy --help`"
LOCK_SECONDS = 60  # to wait for another writer; one that hangs must not prevent a rollback, and the log is read again
MAX_REASON = 1000  # characters in JSON; MLflow limits a tag, and a long error must not prevent a rollback

Versions = dict[str, str | None]  # alias -> version, None if the alias does not exist


@dataclass(frozen=True)
class Decision:
    """One decision on what serves, and the aliases before and after it. A rollout step changes no alias."""

    dataset: str
    serial: int  # 1, 2, ... within the dataset
    action: str  # promotion, rollback, override or rollout step
    reason: str
    decided_by: str
    decided_at: str  # a rollback may be ordered where the registry is out of reach, and recorded later
    artifact: str  # digest of the champion's artifact
    before: Versions
    after: Versions
    previous_entry: str  # hash of the entry before; empty for the first
    removed: str | None = None  # of a rollback: digest of the artifact that it took from the users
    holdout_end: str | None = None  # of a promotion: the last event that the gate judged by
    recipe: str | None = None  # of the artifact: `registry.recipe_of`
    phase: str | None = None  # of a rollout step
    share: float | None = None  # of the users, of a rollout step

    @property
    def champion(self) -> str | None:
        return self.after.get(CHAMPION)

    def __str__(self) -> str:
        action = f"{self.action} ({self.phase} {self.share:.0%})" if self.share is not None else self.action
        return f"{action} of {self.champion} by {self.decided_by}, {self.decided_at[:19]}Z"


class Bar(NamedTuple):
    """Why an artifact may not be promoted again before there is new evidence."""

    rollback: Decision  # that removed it
    evidence_end: str  # of the events that it was promoted by; the time of the rollback if the gate never promoted it


@dataclass(frozen=True)
class DecisionLog:
    """The signed decisions of a dataset, as the tags of its registered model hold them."""

    dataset: str
    key: str  # identifies the log in this host's memory
    entries: dict[int, str]  # serial -> signed text
    intent: str | None  # signed text of a decision that has begun
    aliases: Versions  # champion and previous, at the time of reading

    @property
    def last_serial(self) -> int:
        return max(self.entries, default=0)

    @property
    def last_hash(self) -> str:
        return self._entry_hash(self.last_serial)

    def last(self) -> Decision | None:
        """The newest decision; None if nothing was ever signed.

        Raises:
            RegistryError: the last entry is not signed by a known key, an entry is missing, or this host has seen an
                entry that is not in the log.
        """
        decision, serial = None, self.last_serial
        if self.entries:
            decision = self._entry(serial)
            if decision.previous_entry != self._entry_hash(serial - 1):
                raise self._out_of_order(serial)
        if seen := _read_memory().get(self.key):
            self.check_holds(*seen)
        return decision

    def check_holds(self, serial: int, entry: str) -> None:
        """Raise RegistryError unless the log holds an entry that this host has seen, by serial and hash (0 for none).

        An older state of the registry, another one with the same serials, and a model that was deleted and made anew are
        found alike.
        """
        if serial and self._entry_hash(serial) != entry:
            found = "another one" if serial in self.entries else "gone"
            raise RegistryError(
                f"{self.dataset}: decision {serial}, which this host has seen, is {found} in the registry: it was restored "
                "to an older state, or its model was made anew; restore the newest backup, or accept this registry with "
                "`python -m serving.deploy --override VERSION --reason ...`"
            )

    def history(self) -> Iterator[Decision]:
        """All decisions, newest first. Each is signed by a key that may sign it, and its hash is in the one after it.

        An override accepts entries before it whose signature does not verify, and the history ends there.

        Raises:
            RegistryError: as `last`, or an entry in the middle was changed or removed, or is not signed by a known key.
        """
        decision, is_accepted = self.last(), False
        while decision is not None:
            yield decision
            is_accepted = is_accepted or decision.action == OVERRIDE
            decision = self._before(decision, is_accepted)

    def last_change(self) -> Decision | None:
        """The newest decision that changed the aliases; None if nothing was ever signed."""
        return next((decision for decision in self.history() if decision.action != ROLLOUT_STEP), None)

    def overwritten_change(self) -> Decision | None:
        """The newest change of the aliases if they are those of an earlier one; None if they are not.

        A writer on another machine that was late has set them. The same values set by hand cannot be distinguished from that.
        """
        with suppress(RegistryError):  # whoever uses the log gets the error
            changes = (decision for decision in self.history() if decision.action != ROLLOUT_STEP)
            newest = next(changes, None)
            if newest is None or self.aliases == newest.after or any(map(self.deleted_version, newest.after)):
                return None
            return newest if any(self.aliases == change.after for change in changes) else None
        return None

    def pending(self) -> Decision | None:
        """The decision that has begun and is not complete; None also if a later one replaced it."""
        if self.intent is None or self.entry_is_written():
            return None
        decision = self._verify(self.intent, f"its tag {INTENT_TAG}")
        is_next = (decision.serial, decision.previous_entry) == (self.last_serial + 1, self.last_hash)
        return decision if is_next else None

    def entry_is_written(self) -> bool:
        """Whether the intended decision is complete except for the removal of its intent."""
        return self.intent is not None and self.intent == self.entries.get(self.last_serial)

    def standing_override(self) -> Decision | None:
        """The emergency override that made the present champion; None if the gate promoted it."""
        pending = self.pending()
        decision = pending if pending and pending.action != ROLLOUT_STEP else self.last_change()
        return decision if decision is not None and decision.action == OVERRIDE else None

    def was_promoted(self, version: str) -> bool:
        """Whether the gate ever promoted a version, by an entry that a known key still verifies."""
        for serial in self.entries:
            with suppress(RegistryError):
                decision = self._entry(serial)
                if (decision.action, decision.champion) == (PROMOTION, version):
                    return True
        return False

    def artifact_of(self, version: str | None) -> str | None:
        """Digest of a version's artifact when it was last made champion; None if it never was."""
        return next((decision.artifact for decision in self.history() if decision.champion == version), None)

    def bar(self, artifact: str, recipe: str | None = None) -> Bar | None:
        """The rollback that removed an artifact, or another one of its recipe, and that no later promotion has lifted.

        None if there is none.
        """
        history, rollback = list(self.history()), None
        same = {artifact} | {decision.artifact for decision in history if recipe and decision.recipe == recipe}
        for decision in history:
            if decision.action == ROLLBACK and decision.removed in same:
                rollback = rollback or decision
            elif decision.action == PROMOTION and decision.artifact in same:
                return Bar(rollback, decision.holdout_end or rollback.decided_at) if rollback else None
        return Bar(rollback, rollback.decided_at) if rollback else None

    def alias_problem(self, alias: str, version: str | None) -> str | None:
        """One line if no signed decision explains that an alias names a version; None if one does."""
        if pending := self.pending():
            decision, explained = pending, {pending.before.get(alias), pending.after.get(alias)}
        elif last := self.last():
            decision, explained = last, {last.after.get(alias)}
        elif version is None:
            return None
        else:
            return f"{self.dataset}: no signed decision made {version} {alias}; {how_to_justify(version)}"
        if version in explained:
            return None
        if version is None and (problem := self.deleted_version(alias)):
            return problem
        return (
            f"{self.dataset}: {alias} was changed by hand: it names {version or 'nothing'}, the last signed decision "
            f"names {decision.after.get(alias) or 'nothing'} ({decision}); `python -m serving.deploy --restore` restores it"
        )

    def deleted_version(self, alias: str) -> str | None:
        """One line if the version that the last signed decision gave an alias was deleted; None if it is registered."""
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

    def _before(self, decision: Decision, is_accepted: bool) -> Decision | None:
        """The decision before one that can be trusted; None if it is accepted that it cannot be."""
        serial = decision.serial - 1
        if self._entry_hash(serial) != decision.previous_entry:
            raise RegistryError(
                f"{self.dataset}: its entry {entry_tag(serial)} was changed or removed after the next one was signed; "
                f"{OVERRIDE_HINT}"
            )
        if not decision.previous_entry:
            return None
        try:
            return self._entry(serial)
        except RegistryError:
            if is_accepted:
                return None
            raise

    def _entry(self, serial: int) -> Decision:
        """A verified entry. Raises RegistryError also if it is that of another serial, put there later."""
        decision = self._verify(self.entries[serial], f"its entry {entry_tag(serial)}")
        if decision.serial != serial:
            raise self._out_of_order(serial)
        return decision

    def _out_of_order(self, serial: int) -> RegistryError:
        return RegistryError(
            f"{self.dataset}: its entry {entry_tag(serial)} does not follow the entry before it; {OVERRIDE_HINT}"
        )

    def _verify(self, text: str, name: str) -> Decision:
        key_pairs.trusted()  # missing keys are an error of their own, for which an override is no help
        try:
            statement = signature.verify(ACTIONS, text, f"{self.dataset}: {name}")
        except SignatureError as error:
            raise SignatureError(f"{error}; {OVERRIDE_HINT}") from None
        if (statement["dataset"], statement["action"]) != (self.dataset, statement["kind"]):
            raise RegistryError(f"{self.dataset}: {name} is a {statement['action']} of {statement['dataset']}")
        return _parse(statement)


def read_log(dataset: str) -> DecisionLog:
    """The decision log of a dataset; an empty one if nothing is registered."""
    model = registered_model(dataset)
    tags = model.tags if model else {}
    matches = ((ENTRY_NAME.fullmatch(name), text) for name, text in tags.items())
    entries = {int(match[1]): text for match, text in matches if match}
    address, file = tracking_uri().partition("?")[0], paths.sqlite_file(tracking_uri())
    if file and file.resolve() == paths.mlflow_database().resolve():
        address = paths.STATE  # a backup may be restored in another place
    key = _hash(f"{address} {dataset}")[:32]  # a digest, because the address of a registry may hold a password
    numbers = {alias: model.aliases.get(alias) if model else None for alias in (CHAMPION, PREVIOUS)}
    aliases = {alias: None if number is None else str(number) for alias, number in numbers.items()}
    return DecisionLog(dataset, key, entries, tags.get(INTENT_TAG), aliases)


def apply_decision(
    dataset: str, action: str, reason: str, artifact: str, after: Versions, last: Decision | None, **facts: Any
) -> None:
    """Sign a decision that changes the aliases to `after`, and carry it out. `facts` are further fields of `Decision`.

    `last` is the decision that this one was made after: the newest that changed the aliases, or of a rollout step the newest.

    Raises:
        DecidedMeanwhileError: `last` is not the newest any more, or somebody else decided at the same time.
    """
    with _only_writer():
        log = read_log(dataset)
        if last is not None or action != OVERRIDE:  # without `last`, an override accepts a log that cannot be trusted
            newest = log.last() if action == ROLLOUT_STEP else log.last_change()
            if newest != last:
                raise decided_meanwhile(dataset, newest)
        values: dict[str, Any] = {
            "dataset": dataset,
            "serial": log.last_serial + 1,
            "action": action,
            "reason": _shorten(reason),
            "decided_by": current_user(),
            "decided_at": utc_now().isoformat(),
            "artifact": artifact,
            "before": last.after if last else log.aliases,
            "after": after,
            "previous_entry": log.last_hash,
        }
        decision = Decision(**values | facts)
        signed = signature.sign(action, asdict(decision))
        registry_client().set_registered_model_tag(dataset, INTENT_TAG, signed)
        _complete(dataset, signed if action == OVERRIDE else None)
        if (written := read_log(dataset).last()) != decision:
            raise decided_meanwhile(dataset, written)


def complete_decision(dataset: str) -> Decision | None:
    """Complete a decision that was interrupted, if there is one, and remember the newest entry; the completed decision.

    The newest decision is also completed again if a writer on another machine, which was late, set the aliases of an earlier one.

    Raises:
        RegistryError: the intent is not signed by a known key, or it names a version that does not exist.
    """
    log = read_log(dataset)
    if log.intent is None and log.overwritten_change() is None:
        _remember(log)
        return None
    with _only_writer():
        return _complete(dataset)


def _complete(dataset: str, override: str | None = None) -> Decision | None:
    """As `complete_decision`; with a signed override, this host forgets the log that it has seen once that is written."""
    decision, wrote = None, False
    while True:
        log = read_log(dataset)
        if log.entry_is_written():
            if log.intent == override:  # it accepts an older log
                _write_memory({key: seen for key, seen in _read_memory().items() if key != log.key})
            decision = log.last()
        elif pending := log.pending():
            wrote = True
            if set_aliases(pending, log) and _is_as_read(log):
                tag = entry_tag(pending.serial)
                registry_client().set_registered_model_tag(dataset, tag, log.intent or "")
            continue  # with what the log holds now
        if log.intent is None:
            # A writer that was overtaken may have set an alias after the other one: the newest decision is set again.
            change = log.last_change() if wrote else log.overwritten_change()
            if change is None or set_aliases(change, log):
                _remember(log)
                return decision or (None if wrote else change)
        elif _is_as_read(log):
            registry_client().delete_registered_model_tag(dataset, INTENT_TAG)


def set_aliases(decision: Decision, log: DecisionLog) -> bool:
    """Set the aliases to what a decision names; False if somebody else wrote to the log, which ends it.

    A deleted version can no longer be the previous one.

    Raises:
        RegistryError: the champion was deleted.
    """
    mlflow = registry_client()
    for alias in (PREVIOUS, CHAMPION):  # in this order the former champion always has an alias
        now = read_log(decision.dataset)
        if not _is_same(now, log):
            return False
        old, new = now.aliases[alias], decision.after.get(alias)
        if new is not None and not is_registered(decision.dataset, new):
            if alias == CHAMPION:
                raise RegistryError(
                    f"{decision.dataset}: version {new}, which {decision} made champion, was deleted in MLflow"
                )
            new = None
        if new is not None and new != old:
            mlflow.set_registered_model_alias(decision.dataset, alias, new)
        elif new is None and old is not None:
            mlflow.delete_registered_model_alias(decision.dataset, alias)
    return True


@contextmanager
def _only_writer() -> Iterator[None]:
    """Let one process of this machine write decisions at a time. After `LOCK_SECONDS`, or on a full disk, go on without."""
    file = paths.sqlite_file(tracking_uri())
    lock = file.resolve().with_suffix(".decisions.lock") if file else memory_path().with_name("decisions.lock")
    with ExitStack() as stack:
        with suppress(OSError):  # Timeout is one
            lock.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(lock, LOCK_SECONDS))
        yield


def _shorten(reason: str) -> str:
    """The beginning of a reason that fits into an entry. JSON writes a letter beyond ASCII as six characters or more."""
    reason = reason[:MAX_REASON]
    while len(json.dumps(reason)) > MAX_REASON:
        reason = reason[:-1]
    return reason


def _is_as_read(log: DecisionLog) -> bool:
    return _is_same(read_log(log.dataset), log)


def _is_same(now: DecisionLog, log: DecisionLog) -> bool:
    return (now.entries, now.intent) == (log.entries, log.intent)


def decided_meanwhile(dataset: str, newest: Decision | None) -> DecidedMeanwhileError:
    return DecidedMeanwhileError(f"{dataset}: somebody else decided at the same time ({newest}); try again")


def how_to_justify(version: str) -> str:
    """What to do about a version that no signature justifies."""
    override = f"`python -m serving.deploy --override {version} --reason ...`"
    return f"judge it with `python -m experiments.gate`, or, in an emergency, use {override}"


def entry_tag(serial: int) -> str:
    return f"decision.{serial:06d}"


def memory_path() -> Path:
    """The file in which this host remembers the newest entry that it has seen of each log."""
    return settings.load().state / paths.DEPLOYMENTS / "newest_decisions.json"


def _remember(log: DecisionLog) -> None:
    """Remember the newest entry of a log that can be trusted."""
    memory = _read_memory()
    with suppress(RegistryError):
        if log.last() is not None and memory.get(log.key) != (log.last_serial, log.last_hash):
            _write_memory(memory | {log.key: (log.last_serial, log.last_hash)})


def _read_memory() -> dict[str, tuple[int, str]]:
    try:
        content = json.loads(memory_path().read_text(encoding="utf-8"))
        return {key: (int(serial), str(entry)) for key, (serial, entry) in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write_memory(memory: dict[str, tuple[int, str]]) -> None:
    with suppress(OSError):  # a full disk must not prevent a rollback
        files.write_bytes(memory_path(), json.dumps(memory, indent=1).encode())


def _parse(statement: dict[str, Any]) -> Decision:
    names = {field.name for field in fields(Decision)}  # older entries lack the newest fields, which have defaults
    return Decision(**{name: value for name, value in statement.items() if name in names})


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()
