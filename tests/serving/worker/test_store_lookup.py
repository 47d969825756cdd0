"""What the worker learns from the online store, and what it says where it learns nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.columns import DAY
from features.online.connect import StoreSettings, connect
from features.online.errors import StoreUnavailable
from features.online.profile import Event, TimedValue, make_profile
from features.online.records import ItemTrends
from features.online.store import Policy, ProfileStore
from features.vocabulary import Vocabulary
from serving.circuit_breaker import Breaker
from serving.worker.request import Request
from serving.worker.users import ABSENT, FAILED, RESTED, StoreLookup

NOW = 20_000 * DAY


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    made = connect("made", StoreSettings(f"sqlite:///{tmp_path}/online.db"), writing=True)
    made.configure(Policy(max_events=100, ttl_us=30 * DAY))
    return made


def request(user_id: str, time_us: int = NOW) -> Request:
    return Request(user_id, [], stated=False, k=5, time_us=time_us, context={}, request_id=None)


def event(days_ago: int, item: str) -> Event:
    moment = NOW - days_ago * DAY
    return Event(moment, f"e-{days_ago}-{item}", moment, item, "play")


def consent(given: bool) -> dict[str, TimedValue]:
    return {"personalization": TimedValue(NOW - DAY, "c", NOW - DAY, given)}


def test_a_known_user_comes_with_history_traits_and_when_they_were_learned(store: ProfileStore) -> None:
    traits = {"plan": TimedValue(NOW - 2 * DAY, "t", NOW - 2 * DAY, "free")}
    store.upsert([make_profile("known", [event(3, "b"), event(5, "a"), event(1, "a")], traits, consent(True))])

    (person,) = StoreLookup(lambda: store).people([request("known")], "first")

    assert (person.items, person.times) == (["a", "b"], [NOW - 5 * DAY, NOW - 3 * DAY])
    assert person.traits == {"plan": "free"}
    assert person.feature_time_us == NOW - DAY
    assert person.note == ""


def test_nothing_of_a_later_time_is_seen(store: ProfileStore) -> None:
    store.upsert([make_profile("known", [event(5, "a"), event(1, "b")])])

    (person,) = StoreLookup(lambda: store).people([request("known", NOW - 3 * DAY)], "first")

    assert person.items == ["a"]


def test_what_a_user_just_did_is_known_to_the_next_request(store: ProfileStore) -> None:
    lookup = StoreLookup(lambda: store)
    store.upsert([make_profile("known", [event(5, "a")])])
    lookup.people([request("known")], "first")

    store.upsert([make_profile("known", [Event(NOW - 1, "new", NOW - 1, "b", "play")])])
    (person,) = lookup.people([request("known")], "first")

    assert person.items == ["a", "b"]


def test_who_did_not_agree_is_not_known(store: ProfileStore) -> None:
    store.upsert([make_profile("shy", [event(5, "a")], None, consent(False))])

    (person,) = StoreLookup(lambda: store).people([request("shy")], "first")

    assert (list(person.items), dict(person.traits)) == ([], {})
    assert person.note == "this user has not agreed to personalisation"


def test_each_user_gets_their_own_reason(store: ProfileStore) -> None:
    store.upsert([make_profile("known", [event(5, "a")]), make_profile("gone", [event(31, "a")])])

    people = StoreLookup(lambda: store).people([request("nobody"), request("known"), request("gone")], "first")

    assert [person.note for person in people] == [
        "the online store does not know this user",
        "",
        "what the online store knew of this user has expired",
    ]


def test_a_store_that_nobody_made_is_found_once_it_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_STORE", f"sqlite:///{tmp_path}/online.db")
    ended: list[str] = []
    lookup = StoreLookup.of("made", ended.append)
    notes = {lookup.people([request("known")], "first")[0].note for _ in range(5)}
    assert notes == {ABSENT}, "nothing has failed"

    filled = connect("made", StoreSettings(f"sqlite:///{tmp_path}/online.db"), writing=True)
    filled.configure(Policy(max_events=100, ttl_us=None))
    filled.upsert([make_profile("known", [event(5, "a")])])
    assert lookup.people([request("known")], "first")[0].items
    assert ended == ["absent"] * 5 + ["answered"]


class Stopped:
    """A store that does not answer, until it does."""

    def __init__(self, store: ProfileStore) -> None:
        self.store, self.down, self.asked = store, True, 0

    def read(self, *given: object) -> object:
        self.asked += 1
        if self.down:
            raise StoreUnavailable("nothing answers")
        return self.store.read(*given)  # type: ignore[arg-type]


def test_a_store_that_fails_is_rested_and_taken_up_again_by_itself(store: ProfileStore) -> None:
    store.upsert([make_profile("known", [event(5, "a")])])
    clock = [0.0]
    stopped = Stopped(store)
    lookup = StoreLookup(lambda: stopped, Breaker(3, 5.0, clock=lambda: clock[0]))  # type: ignore[arg-type,return-value]

    notes = [lookup.people([request("known")], "first")[0].note for _ in range(5)]
    assert notes == [FAILED, FAILED, FAILED, RESTED, RESTED]
    assert stopped.asked == 3, "nobody waits for a store that is known to fail"

    clock[0], stopped.down = 6.0, False
    assert lookup.people([request("known")], "first")[0].items
    assert lookup.people([request("known")], "first")[0].items


def test_a_store_that_cannot_be_opened_yet_is_opened_later(store: ProfileStore) -> None:
    tries: list[int] = []

    def opened() -> ProfileStore:
        tries.append(1)
        if len(tries) == 1:
            raise StoreUnavailable("not there yet")
        return store

    lookup = StoreLookup(opened)

    assert lookup.people([request("x")], "first")[0].note == FAILED
    assert lookup.people([request("x")], "first")[0].note == "the online store does not know this user"


@pytest.mark.parametrize(("moment", "seen"), [(NOW - DAY, True), (NOW - 3 * DAY, False), (NOW + DAY, False)])
def test_trends_are_taken_if_they_are_newer_and_not_of_the_future(store: ProfileStore, moment: int, seen: bool) -> None:
    vocabulary = Vocabulary(["a", "b"])
    store.write_trends(ItemTrends(["b", "new"], ["all"], np.array([[3.0], [9.0]], np.float32), moment))

    found = StoreLookup(lambda: store).trends(vocabulary, NOW, NOW - 2 * DAY)

    assert (found is not None) == seen
    if found is not None:
        assert found.values[:, 0].tolist() == [0, 0, 3], (
            "in the order of the model's vocabulary; unknown items left out"
        )
