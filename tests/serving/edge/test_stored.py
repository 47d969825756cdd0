"""The edge reads consent, and whether anything changed, from the online store."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path

import pytest
from fake_torchserve import FakeTorchServe
from running import Start

from features.online.connect import StoreSettings, connect
from features.online.profile import Event, TimedValue, make_profile
from features.online.store import Policy, ProfileStore
from serving.edge.consent import Standing
from serving.edge.stored import Stored

NOW = time.time_ns() // 1000
MINUTE = 60_000_000


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    made = connect("made", StoreSettings(f"sqlite:///{tmp_path}/online.db"), writing=True)
    made.configure(Policy(max_events=100, ttl_us=None))
    return made


def event(minutes_ago: int, item: str) -> Event:
    moment = NOW - minutes_ago * MINUTE
    return Event(moment, f"e{minutes_ago}", NOW - MINUTE, item, "play")


def says(granted: bool, minutes_ago: int = 5) -> dict[str, TimedValue]:
    moment = NOW - minutes_ago * MINUTE
    return {"personalization": TimedValue(moment, "c", moment, granted)}


def read(store: ProfileStore, user: str) -> Standing:
    return asyncio.run(Stored(lambda: store).read(user))


def test_consent_is_what_the_user_said_last(store: ProfileStore) -> None:
    store.upsert(
        [
            make_profile("ann", consent=says(True, 9)),
            make_profile("bob", consent=says(True, 9)),
            make_profile("eve", [event(9, "a")]),
        ]
    )
    store.upsert([make_profile("bob", consent=says(False, 5))])

    assert [read(store, user).consent for user in ("ann", "bob", "eve", "nobody")] == [True, False, None, None]


def test_a_profile_that_cannot_be_read_is_no_yes(store: ProfileStore, tmp_path: Path, start: Start) -> None:
    store.upsert([make_profile("ann", [event(9, "a")], None, says(False))])
    with sqlite3.connect(tmp_path / "online.db") as database:
        database.execute("UPDATE records SET value = x'00' WHERE CAST(key AS TEXT) LIKE '%ann'")

    answer = start(Stored(lambda: store)).answer({"user_id": "ann"})

    assert answer["rung"] == "popular"
    assert "the profile store failed" in answer["reason"]


def test_a_store_that_nobody_made_holds_no_no_and_is_not_made_by_looking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_STORE", f"sqlite:///{tmp_path}/online.db")
    users = Stored.of("made")
    assert asyncio.run(users.read("ann")) == Standing(None, "")
    assert not (tmp_path / "online.db").exists()

    filled = connect("made", StoreSettings(f"sqlite:///{tmp_path}/online.db"), writing=True)
    filled.configure(Policy(max_events=100, ttl_us=None))
    filled.upsert([make_profile("ann", consent=says(False))])
    assert asyncio.run(users.read("ann")).consent is False


@pytest.mark.parametrize("change", [[event(2, "b")], [event(30, "late")]])
def test_whatever_is_learned_changes_the_state(store: ProfileStore, change: list[Event]) -> None:
    store.upsert([make_profile("ann", [event(9, "a")])])
    before = read(store, "ann")
    assert read(store, "ann") == before

    store.upsert([make_profile("ann", change)])

    assert read(store, "ann").state != before.state


def test_the_next_answer_is_fresh_after_something_was_done(store: ProfileStore, start: Start) -> None:
    store.upsert([make_profile("ann", [event(9, "a")])])
    edge = start(Stored(lambda: store))
    assert [edge.answer({"user_id": "ann"})["cache"] for _ in range(2)] == ["miss", "hit"]

    store.upsert([make_profile("ann", [event(2, "b")])])

    assert edge.answer({"user_id": "ann"})["cache"] == "miss"


def test_what_a_worker_cannot_look_up_is_stated_unless_the_client_does_or_may_not(
    store: ProfileStore, start: Start, torchserve: FakeTorchServe
) -> None:
    stated = {
        "plan": TimedValue(NOW - MINUTE, "t", NOW - MINUTE, "free"),
        "age": TimedValue(NOW - MINUTE, "t", NOW - MINUTE, 30),
    }
    store.upsert(
        [
            make_profile("ann", [event(9, "a"), event(20, "b")], stated),
            make_profile("bob", [event(9, "a")], consent=says(False)),
        ]
    )
    edge = start(Stored(lambda: store, tells=True))
    edge.answer({"user_id": "ann", "k": 3, "context": {"age": 31}})
    edge.answer({"user_id": "ann", "k": 4, "history": []})
    edge.answer({"user_id": "bob", "k": 5})

    told = {body["k"]: body for _, body in torchserve.asked}
    assert [one["item_id"] for one in told[3]["history"]] == ["b", "a"]
    assert told[3]["context"] == {"plan": "free", "age": 31}
    assert told[4] == {"user_id": "ann", "k": 4, "history": []}
    assert told[5] == {"history": [], "k": 5}
