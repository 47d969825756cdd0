"""A decision that is killed before any of its writes ends in the same state when it is run again."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

from serving.deployment import decisions, promotion, registry
from serving.deployment.decisions import entry_tag
from serving.deployment.registry import CHALLENGER, CHAMPION, PREVIOUS, registry_client

pytestmark = pytest.mark.slow

WRITES = (
    "set_registered_model_alias",
    "delete_registered_model_alias",
    "set_registered_model_tag",
    "delete_registered_model_tag",
    "set_model_version_tag",
    "update_model_version",
    "log_text",
)
PROMOTED = {"verdict": "PROMOTE", "reason": "better by 5%", "date": "2026-11-26T00:00:00Z"}
REASON = "the champion shows nothing at all"
Aliases = tuple[str | None, str | None]


class Killed(BaseException):
    """Like SIGKILL: no code may catch it and go on."""


def promote(version: str) -> Callable[[], object]:
    return lambda: promotion.promote("tiny", version, PROMOTED, "<p>better</p>")


def override(version: str) -> Callable[[], object]:
    return lambda: promotion.override("tiny", version, REASON)


def rollback() -> object:
    return promotion.roll_back_aliases("tiny")


def forge() -> None:
    """Overwrite the last entry of the record, so that only an override is possible."""
    last = max(decisions.read_log("tiny").entries)
    registry_client().set_registered_model_tag("tiny", entry_tag(last), "{}")


def challenge() -> None:
    promotion.set_challenger("tiny", "2")


@dataclass(frozen=True)
class Case:
    """What was done before, which verb is killed, and the aliases before and after it."""

    before: tuple[Callable[[], object], ...]
    verb: Callable[[], object]
    old: Aliases
    new: Aliases
    least_writes: int
    trusted: bool = True  # whether the record can be read before


CASES = {
    "the first promotion": Case((), promote("1"), (None, None), ("1", None), 10),
    "a promotion": Case((promote("1"), challenge), promote("2"), ("1", None), ("2", "1"), 12),
    "a rollback": Case((promote("1"), promote("2")), rollback, ("2", "1"), ("1", "2"), 5),
    "an override": Case((promote("1"),), override("2"), ("1", None), ("2", "1"), 7),
    "the end of an override": Case((promote("1"), override("2")), promote("2"), ("2", "1"), ("2", "1"), 8),
    "a rollback from an override": Case((promote("1"), override("2")), rollback, ("2", "1"), ("1", None), 5),
    "an override of a forged record": Case((promote("1"), forge), override("2"), ("1", None), ("2", None), 6, False),
}


@contextmanager
def killed_before(write: int) -> Iterator[list[str]]:
    """Raise instead of the write with this number, counted from 0; yields the writes that were begun."""
    begun: list[str] = []

    def counted(name: str, real: Callable) -> Callable:
        def called(self: MlflowClient, *arguments: object, **keywords: object) -> object:
            begun.append(name)
            if len(begun) > write:
                raise Killed
            return real(self, *arguments, **keywords)

        return called

    with pytest.MonkeyPatch.context() as patch:
        for name in WRITES:
            patch.setattr(MlflowClient, name, counted(name, getattr(MlflowClient, name)))
        yield begun


def copy(source: Path, target: Path) -> None:
    """Copy a registry, and forget the newest serials that this machine has seen."""
    decisions.memory_path().unlink(missing_ok=True)
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


def aliases() -> Aliases:
    found = (registry.version_by_alias("tiny", alias) for alias in (CHAMPION, PREVIOUS))
    champion, previous = (version.version if version else None for version in found)
    return champion, previous


def serves() -> str | None:
    return promotion.serving_target("tiny").version.version if aliases()[0] else None


def is_settled(entries: int) -> bool:
    record = decisions.read_log("tiny")
    return (
        record.intent is None
        and len(record.entries) == entries
        and record.alias_problem(CHAMPION, aliases()[0]) is None
    )


@pytest.mark.parametrize("what", CASES)
def test_a_change_that_is_killed_before_any_write_and_run_again_converges(
    two, registry_folder: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_STATE", str(registry_folder / "server"))
    case = CASES[what]
    for step in case.before:
        step()
    database, kept = registry_folder / "mlflow.db", registry_folder / "kept.db"
    copy(database, kept)
    entries = len(decisions.read_log("tiny").entries)
    write = 0
    while True:
        with killed_before(write) as begun:
            try:
                case.verb()
                break
            except Killed:
                pass
        assert begun[write:], "it was not killed"
        if case.trusted:
            assert serves() in (case.old[0], case.new[0]), f"{what}, killed before write {write}, {begun[-1]}"
        killed = registry_folder / "killed.db"
        copy(database, killed)

        case.verb()
        assert (aliases(), serves()) == (case.new, case.new[0]), f"{what}, killed before write {write}, {begun[-1]}"
        assert is_settled(entries + 1), f"{what}, killed before write {write}, {begun[-1]}"

        copy(killed, database)
        if case.trusted:  # or a deployment runs first
            decisions.complete_decision("tiny")
            assert aliases() in (case.old, case.new)
            assert is_settled(entries) or is_settled(entries + 1)
            if aliases() == case.old:
                case.verb()
            assert aliases() == case.new
        copy(kept, database)
        write += 1
    assert aliases() == case.new
    assert is_settled(entries + 1)
    assert registry.version_by_alias("tiny", CHALLENGER) is None
    assert write >= case.least_writes, "fewer writes were counted than there are"
