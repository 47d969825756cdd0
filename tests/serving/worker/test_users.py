"""Users come from the online store, and a missing history has its reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.columns import DAY
from data.consent import PERSONALIZATION, Answer
from features.online.connect import StoreSettings, connect
from features.online.errors import StoreUnavailable
from features.online.profile import Event, TimedValue, make_profile
from features.online.records import ItemTrends
from features.online.store import Policy, ProfileStore
from features.vocabulary import Vocabulary
from serving.circuit_breaker import Breaker
from serving.worker.request import Request
from serving.worker.users import STORE_ABSENT, STORE_FAILED, STORE_RESTED, StoreLookup

NOW = 20_000 * DAY


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    made = connect("made", StoreSettings(f"sqlite:///{tmp_path}/online.db"), writing=True)
    made.configure(Policy(max_events=100, ttl_us=30 * DAY))
    return made


def request(user_id: str, time_us: int = NOW) -> Request:
    return Request(user_id, [], has_history=False, k=5, time_us=time_us, context={}, request_id=None)


def event(days_ago: int, item: str) -> Event:
    moment = NOW - days_ago * DAY
    return Event(moment, f"e-{days_ago}-{item}", moment, item, "play")


def consent(agreed: bool, time_us: int = NOW - DAY) -> dict[str, Answer]:
    return {PERSONALIZATION: Answer(agreed, time_us, "page")}


def test_a_known_user_has_history_traits_and_the_time_of_the_newest_fact(store: ProfileStore) -> None:
    traits = {"plan": TimedValue(NOW - 2 * DAY, "t", NOW - 2 * DAY, "free")}
    store.upsert([make_profile("known", [event(3, "b"), event(5, "a"), event(1, "a")], traits, consent(True))])

    (user,) = StoreLookup(lambda: store).find_users([request("known")], "first")

    assert (user.items, user.times) == (["a", "b"], [NOW - 5 * DAY, NOW - 3 * DAY])
    assert user.traits == {"plan": "free"}
    assert user.feature_time_us == NOW - DAY
    assert user.reason == ""


def test_nothing_later_than_the_request_is_seen(store: ProfileStore) -> None:
    store.upsert([make_profile("known", [event(5, "a"), event(1, "b")])])

    (user,) = StoreLookup(lambda: store).find_users([request("known", NOW - 3 * DAY)], "first")

    assert user.items == ["a"]


def test_a_new_event_is_in_the_next_history(store: ProfileStore) -> None:
    lookup = StoreLookup(lambda: store)
    store.upsert([make_profile("known", [event(5, "a")])])
    lookup.find_users([request("known")], "first")

    store.upsert([make_profile("known", [Event(NOW - 1, "new", NOW - 1, "b", "play")])])
    (user,) = lookup.find_users([request("known")], "first")

    assert user.items == ["a", "b"]


def test_a_user_without_consent_has_no_history_and_no_traits(store: ProfileStore) -> None:
    store.upsert([make_profile("shy", [event(5, "a")], None, consent(False))])

    # A no holds from when it is known, also for a request of a time before it.
    for moment in (NOW, NOW - 3 * DAY):
        (user,) = StoreLookup(lambda: store).find_users([request("shy", moment)], "first")

        assert (list(user.items), dict(user.traits)) == ([], {})
        assert user.reason == "this user has not agreed to personalization"


def test_each_user_has_their_own_reason(store: ProfileStore) -> None:
    store.upsert([make_profile("known", [event(5, "a")]), make_profile("gone", [event(31, "a")])])

    users = StoreLookup(lambda: store).find_users([request("nobody"), request("known"), request("gone")], "first")

    assert [user.reason for user in users] == [
        "the online store does not know this user",
        "",
        "what the online store knew about this user has expired",
    ]


def test_a_store_is_found_once_it_is_materialized(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_STORE", f"sqlite:///{tmp_path}/online.db")
    outcomes: list[str] = []
    lookup = StoreLookup.from_environment("made", outcomes.append)
    reasons = {lookup.find_users([request("known")], "first")[0].reason for _ in range(5)}
    assert reasons == {STORE_ABSENT}, "nothing has failed"

    filled = connect("made", StoreSettings(f"sqlite:///{tmp_path}/online.db"), writing=True)
    filled.configure(Policy(max_events=100, ttl_us=None))
    filled.upsert([make_profile("known", [event(5, "a")])])
    assert lookup.find_users([request("known")], "first")[0].items
    assert outcomes == ["absent"] * 5 + ["answered"]


class FailingStore:
    """A store that fails while it is down."""

    def __init__(self, store: ProfileStore) -> None:
        self.store, self.down, self.reads = store, True, 0

    def read(self, *arguments: object) -> object:
        self.reads += 1
        if self.down:
            raise StoreUnavailable("nothing answers")
        return self.store.read(*arguments)  # type: ignore[arg-type]


def test_a_failing_store_is_left_alone_and_used_again_later(store: ProfileStore) -> None:
    store.upsert([make_profile("known", [event(5, "a")])])
    clock = [0.0]
    failing = FailingStore(store)
    lookup = StoreLookup(lambda: failing, Breaker(3, 5.0, clock=lambda: clock[0]))  # type: ignore[arg-type,return-value]

    reasons = [lookup.find_users([request("known")], "first")[0].reason for _ in range(5)]
    assert reasons == [STORE_FAILED, STORE_FAILED, STORE_FAILED, STORE_RESTED, STORE_RESTED]
    assert failing.reads == 3, "no batch waits for a store that keeps failing"

    clock[0], failing.down = 6.0, False
    assert lookup.find_users([request("known")], "first")[0].items
    assert lookup.find_users([request("known")], "first")[0].items


def test_a_store_that_fails_to_open_is_opened_later(store: ProfileStore) -> None:
    attempts: list[int] = []

    def open_store() -> ProfileStore:
        attempts.append(1)
        if len(attempts) == 1:
            raise StoreUnavailable("not there yet")
        return store

    lookup = StoreLookup(open_store)

    assert lookup.find_users([request("x")], "first")[0].reason == STORE_FAILED
    assert lookup.find_users([request("x")], "first")[0].reason == "the online store does not know this user"


@pytest.mark.parametrize(("moment", "seen"), [(NOW - DAY, True), (NOW - 3 * DAY, False), (NOW + DAY, False)])
def test_trends_are_found_if_they_are_newer_and_not_later_than_now(
    store: ProfileStore, moment: int, seen: bool
) -> None:
    vocabulary = Vocabulary(["a", "b"])
    store.write_trends(ItemTrends(["b", "new"], ["all"], np.array([[3.0], [9.0]], np.float32), moment))

    found = StoreLookup(lambda: store).find_trends(vocabulary, NOW, NOW - 2 * DAY)

    assert (found is not None) == seen
    if found is not None:
        assert found.values[:, 0].tolist() == [0, 0, 3], (
            "in the order of the model's vocabulary; unknown items left out"
        )
