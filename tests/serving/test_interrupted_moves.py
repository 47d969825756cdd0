"""A move of the aliases that is killed between any two of its writes ends, run again, as if nothing had happened."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from mlflow import MlflowClient

from serving.deployment import alias_changes, registry
from serving.deployment.alias_changes import name_of
from serving.deployment.model_versions import client
from serving.deployment.registry import CHALLENGER, CHAMPION, PREVIOUS

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
Says = tuple[str | None, str | None]


class Killed(BaseException):
    """As SIGKILL: nothing may catch it and go on."""


def promote(version: str) -> Callable[[], object]:
    return lambda: registry.promote("tiny", version, PROMOTED, "<p>better</p>")


def override(version: str) -> Callable[[], object]:
    return lambda: registry.override("tiny", version, REASON)


def rollback() -> object:
    return registry.rollback("tiny")


def forge() -> None:
    """Spoil the last entry of the record, so that only an override goes on from it."""
    last = max(alias_changes.read("tiny").entries)
    client().set_registered_model_tag("tiny", name_of(last), "{}")


def challenge() -> None:
    registry.challenge("tiny", "2")


@dataclass(frozen=True)
class Case:
    """What was done before, what is killed, and what the aliases say where it was not."""

    before: tuple[Callable[[], object], ...]
    verb: Callable[[], object]
    old: Says
    new: Says
    least_writes: int
    believed: bool = True  # whether the record can be read before


CASES = {
    "the first promotion": Case((), promote("1"), (None, None), ("1", None), 10),
    "a promotion": Case((promote("1"), challenge), promote("2"), ("1", None), ("2", "1"), 12),
    "a rollback": Case((promote("1"), promote("2")), rollback, ("2", "1"), ("1", "2"), 5),
    "an override": Case((promote("1"),), override("2"), ("1", None), ("2", "1"), 7),
    "the end of an override": Case((promote("1"), override("2")), promote("2"), ("2", "1"), ("2", "1"), 8),
    "a way back from an override": Case((promote("1"), override("2")), rollback, ("2", "1"), ("1", None), 5),
    "an override of a forged record": Case((promote("1"), forge), override("2"), ("1", None), ("2", None), 6, False),
}


@contextmanager
def killed_before(write: int) -> Iterator[list[str]]:
    """Raise in place of the write with this number, counted from 0; the writes that were begun."""
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
    """Copy a registry; whoever has seen another state of it forgets that."""
    alias_changes.seen_serials_path().unlink(missing_ok=True)
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


def says() -> Says:
    found = (registry.aliased("tiny", alias) for alias in (CHAMPION, PREVIOUS))
    champion, previous = (version.version if version else None for version in found)
    return champion, previous


def serves() -> str | None:
    return registry.serving_target("tiny").version.version if says()[0] else None


def settled(entries: int) -> bool:
    record = alias_changes.read("tiny")
    return record.intent is None and len(record.entries) == entries and record.fault(CHAMPION, says()[0]) is None


@pytest.mark.parametrize("what", CASES)
def test_killed_before_any_write_and_run_again_it_converges(
    two, registry_folder: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_SERVER_HOME", str(registry_folder / "server"))
    case = CASES[what]
    for step in case.before:
        step()
    database, kept = registry_folder / "mlflow.db", registry_folder / "kept.db"
    copy(database, kept)
    entries = len(alias_changes.read("tiny").entries)
    write = 0
    while True:
        with killed_before(write) as begun:
            try:
                case.verb()
                break
            except Killed:
                pass
        assert begun[write:], "it was killed where it should have been"
        if case.believed:
            assert serves() in (case.old[0], case.new[0]), f"{what}, killed before write {write}, {begun[-1]}"
        killed = registry_folder / "killed.db"
        copy(database, killed)

        case.verb()
        assert (says(), serves()) == (case.new, case.new[0]), f"{what}, killed before write {write}, {begun[-1]}"
        assert settled(entries + 1), f"{what}, killed before write {write}, {begun[-1]}"

        copy(killed, database)
        if case.believed:  # or somebody deploys first
            alias_changes.finish("tiny")
            assert says() in (case.old, case.new)
            assert settled(entries) or settled(entries + 1)
            if says() == case.old:
                case.verb()
            assert says() == case.new
        copy(kept, database)
        write += 1
    assert says() == case.new
    assert settled(entries + 1)
    assert registry.aliased("tiny", CHALLENGER) is None
    assert write >= case.least_writes, "fewer writes than there are were counted"
