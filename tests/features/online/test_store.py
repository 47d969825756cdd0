"""One contract for every store: nothing is lost, nothing stale is served, nothing bad costs its neighbours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.columns import DAY, HOUR
from data.consent import NEVER_ASKED, PERSONALIZATION, Answer, decide
from data.times import now_us
from features.online.errors import NewerRecord, StoreConflict, StoreError
from features.online.profile import Event, Profile, TimedValue, make_profile
from features.online.records import ItemTrends, encode_consent, encode_profile
from features.online.store import Policy, ProfileStore, ReadingState, Swap

ROOT = Path(__file__).resolve().parents[3]
T = 1_700_000_000_000_000


def played(user: str, *numbers: int) -> Profile:
    return make_profile(
        user, [Event(T + number, f"e{number:04d}", T + number, f"i{number}", "play") for number in numbers]
    )


def numbers_of(store: ProfileStore, user: str, at: int = T + DAY) -> list[int] | None:
    """The events that the store gives back of a user, by their numbers."""
    profile = store.read([user], [at])[0].profile
    return profile and [event.time_us - T for event in profile.events]


def key_of(store: ProfileStore, user: str) -> bytes:
    return store._profile_key(user)


def plant(store: ProfileStore, key: bytes, raw: bytes | None) -> None:
    """Put bytes, or nothing, in the place of whatever is there."""
    (held,) = store.engine.get([key])
    assert store.engine.swap([Swap(key, held, raw)]) == [True]


class TestProfiles:
    def test_what_was_written_is_read(self, store: ProfileStore, reopen: Callable[[], ProfileStore]) -> None:
        stated = TimedValue(T, "e", T, 31)
        profile = make_profile("ü", played("ü", 1).events, {"age": stated}, {"training": Answer(False, T, "page")})
        store.upsert([profile])

        (reading,) = reopen().read(["ü"], [T])
        assert (reading.profile, reading.consent) == (replace(profile, consent=None), profile.consent)

    def test_readings_come_in_the_order_asked_for(self, store: ProfileStore) -> None:
        store.upsert([played("a", 1), played("b", 2)])

        readings = store.read(["b", "nobody", "a", "b"], [T + DAY] * 4)

        assert [reading.state for reading in readings] == [
            ReadingState.FOUND,
            ReadingState.UNKNOWN,
            ReadingState.FOUND,
            ReadingState.FOUND,
        ]
        assert [reading.profile and reading.profile.user_id for reading in readings] == ["b", None, "a", "b"]

    def test_reading_no_users_returns_no_readings(self, store: ProfileStore) -> None:
        assert store.read([], []) == []

    def test_changes_of_one_user_in_one_call_are_all_kept(self, store: ProfileStore) -> None:
        store.upsert([played("a", 3), played("b", 9), played("a", 1), played("a", 3)])

        assert numbers_of(store, "a") == [1, 3]

    def test_many_users_are_written_and_read(self, store: ProfileStore) -> None:
        users = [f"u{number}" for number in range(1203)]
        store.upsert([played(user, 1) for user in users])

        assert [one.profile.user_id for one in store.read(users, [T + DAY] * 1203) if one.profile] == users

    @given(st.lists(st.lists(st.integers(0, 90), max_size=20), max_size=6), st.randoms(use_true_random=False))
    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_batches_in_any_order_give_the_same_profile(self, store: ProfileStore, batches: list, random) -> None:
        store.erase(["a", "b"])
        store.upsert([played("a", *batch) for batch in batches])
        random.shuffle(batches)
        for batch in [*batches, *batches[:2]]:
            store.upsert([played("b", *batch)])

        newest = sorted({number for batch in batches for number in batch})[-50:]
        assert (numbers_of(store, "a") or []) == (numbers_of(store, "b") or []) == newest

    def test_the_oldest_events_make_room(self, store: ProfileStore) -> None:
        store.upsert([played("a", *range(60)), played("a", 3)])

        assert numbers_of(store, "a") == list(range(10, 60))

    def test_an_erased_user_is_unknown(self, store: ProfileStore) -> None:
        store.upsert([played("a", 1), played("b", 1)])
        store.erase(["a", "nobody"])

        assert [one.state for one in store.read(["a", "b"], [T + DAY] * 2)] == [
            ReadingState.UNKNOWN,
            ReadingState.FOUND,
        ]

    def test_half_a_surrogate_pair_is_a_user_like_others(self, store: ProfileStore) -> None:
        store.upsert([played("\ud800", 1)])

        assert numbers_of(store, "\ud800") == [1]

    def test_data_sets_do_not_meet(self, store: ProfileStore, url: str, namespace: str) -> None:
        other = ProfileStore(store.engine, namespace + "-other")
        other.configure(Policy(50, None))
        store.upsert([played("a", 1)])

        assert other.read(["a"], [T])[0].state == ReadingState.UNKNOWN

    def test_the_error_without_a_policy_names_the_command(self, reopen: Callable[[], ProfileStore]) -> None:
        with pytest.raises(StoreError, match=r"has no policy .*run features\.materialize"):
            reopen().upsert([played("a", 1)])


class TestTimeToLive:
    def test_it_is_enforced_at_read(self, store: ProfileStore) -> None:
        store.upsert([played("a", 0), played("b", DAY)])

        at = T + 30 * DAY
        assert [one.state for one in store.read(["a", "b"], [at, at])] == [ReadingState.FOUND, ReadingState.FOUND]
        readings = store.read(["a", "b", "a"], [at + 1, at + 1, at])
        assert [one.state for one in readings] == [ReadingState.EXPIRED, ReadingState.FOUND, ReadingState.FOUND]
        assert readings[0].profile is None

    def test_a_changed_one_holds_for_readers_that_were_open(
        self, store: ProfileStore, reopen: Callable[[], ProfileStore]
    ) -> None:
        reader = reopen()
        store.upsert([played("a", 0)])
        assert reader.read(["a"], [T + 2 * DAY])[0].state == ReadingState.FOUND

        store.configure(Policy(50, DAY))
        assert reader.read(["a"], [T + 2 * DAY])[0].state == ReadingState.EXPIRED
        store.configure(Policy(50, None))
        assert reader.read(["a"], [T + 9999 * DAY])[0].state == ReadingState.FOUND

    def test_news_of_a_user_begin_it_anew(self, store: ProfileStore) -> None:
        store.upsert([played("a", 0)])
        late = T + 40 * DAY
        store.upsert([make_profile("a", [Event(T, "old", late, "i", "play")])])  # old, but learned of just now

        assert store.read(["a"], [late])[0].state == ReadingState.FOUND


class TestBadRecords:
    @pytest.mark.parametrize(
        "raw", [b"", b"rubbish", encode_profile(played("b", 1)), encode_profile(played("a", 1))[:-2]]
    )
    def test_one_is_reported_and_costs_its_neighbours_nothing(self, store: ProfileStore, raw: bytes, caplog) -> None:
        store.upsert([played("a", 1), played("b", 2)])
        plant(store, key_of(store, "a"), raw)

        bad, good = store.read(["a", "b"], [T + DAY] * 2)

        assert (bad.state, bad.profile, good.state) == (ReadingState.CORRUPT, None, ReadingState.FOUND)
        assert "record" in caplog.text

    def test_new_data_replaces_a_corrupt_record_and_marks_the_profile_truncated(self, store: ProfileStore) -> None:
        store.upsert([played("a", 1)])
        plant(store, key_of(store, "a"), b"rubbish")
        store.upsert([played("a", 2)])

        profile = store.read(["a"], [T + DAY])[0].profile
        assert profile is not None
        assert profile.truncated
        assert numbers_of(store, "a") == [2]

    def test_records_of_newer_code_are_not_overwritten(self, store: ProfileStore) -> None:
        newer = b"TGP\x03" + encode_profile(played("a", 1))[4:]
        store.upsert([played("a", 1)])
        plant(store, key_of(store, "a"), newer)

        with pytest.raises(NewerRecord, match="format 3"):
            store.upsert([played("a", 2), played("b", 2)])

        assert store.engine.get([key_of(store, "a")]) == [newer]
        assert numbers_of(store, "b") == [2]


def asked(granted: bool, at: int = T) -> dict[str, Answer]:
    return {PERSONALIZATION: Answer(granted, at, "page")}


def decision(store: ProfileStore, user: str, at: int = T + DAY) -> str:
    return decide(store.read([user], [at])[0].consent, PERSONALIZATION, at)


def format_1(consent: dict[str, list]) -> bytes:
    """The record of user `a` as the code before format 2 wrote it, without events."""
    fields = {name: [] for name in ("times", "ids", "lags", "items", "types", "type")}
    body = {"user": "a", **fields, "traits": {}, "consent": consent, "feature_time": T, "truncated": False}
    text = json.dumps(body).encode()
    return b"TGP\x01" + crc32(text).to_bytes(4, "big") + text


class TestConsent:
    def test_the_newest_answer_holds_in_whatever_order_answers_arrive(self, store: ProfileStore) -> None:
        yes, no = (make_profile("a", consent=asked(granted, T + at)) for granted, at in ((True, 1), (False, 2)))
        for order in ([yes, no], [no, yes]):
            store.upsert(order)
            assert decision(store, "a") == "denied"

        store.upsert([make_profile("a", consent=asked(True, T + 3)), make_profile("b", consent=asked(True))])
        assert [decision(store, user) for user in ("a", "b", "nobody")] == ["granted", "granted", "not_asked"]

    def test_a_no_is_not_outranked_by_an_earlier_yes_that_a_clock_ahead_stamped(self, store: ProfileStore) -> None:
        now = now_us()
        store.upsert([make_profile("a", consent=asked(True, now + HOUR))])  # by a writer whose clock runs ahead too
        assert decision(store, "a", now) == "denied"

        no = make_profile("a", consent=asked(False, now + 1))
        store.upsert([no])
        store.upsert([no, make_profile("a", consent=asked(True, now + HOUR))])  # replayed
        assert [decision(store, "a", now + moment) for moment in (2, HOUR, DAY)] == ["denied"] * 3
        store.upsert([make_profile("a", consent=asked(True, now + 2 * HOUR))])
        assert decision(store, "a", now + 2 * HOUR) == "granted"

    def test_a_no_outlives_the_time_to_live_of_the_profile(self, store: ProfileStore) -> None:
        store.upsert([make_profile("a", played("a", 0).events, consent=asked(False))])

        (reading,) = store.read(["a"], [T + 400 * DAY])
        assert reading.state == ReadingState.EXPIRED
        assert decision(store, "a", T + 400 * DAY) == "denied"

    def test_a_no_outlives_the_damage_the_loss_and_the_erasure_of_the_profile(self, store: ProfileStore) -> None:
        store.upsert([make_profile("a", played("a", 0).events, consent=asked(False))])
        plant(store, key_of(store, "a"), b"rubbish")
        assert decision(store, "a") == "denied"
        store.upsert([played("a", 1)])
        assert decision(store, "a") == "denied"
        store.erase(["a"])
        assert decision(store, "a") == "denied"
        store.upsert([played("a", 2)])
        assert decision(store, "a") == "denied"

    def test_answers_alone_are_no_news_of_the_profile(self, store: ProfileStore) -> None:
        store.upsert([make_profile("a", consent=asked(True)), make_profile("b", played("b", 0).events)])
        store.upsert([make_profile("b", consent=asked(True, T + 29 * DAY))])

        readings = store.read(["a", "b"], [T + 31 * DAY] * 2)
        assert [reading.state for reading in readings] == [ReadingState.UNKNOWN, ReadingState.EXPIRED]

    def test_a_bulk_load_marks_who_was_not_asked_and_changes_no_answer(self, store: ProfileStore) -> None:
        store.upsert([make_profile("no", consent=asked(False)), make_profile("yes", consent=asked(True))])
        before = store.engine.get([store._consent_key("no"), store._consent_key("yes")])
        for _ in range(2):
            store.upsert([played("no", 1), played("yes", 1), played("new", 1)])

        assert [decision(store, user) for user in ("no", "yes", "new")] == ["denied", "granted", "not_asked"]
        assert store.engine.get([store._consent_key("no"), store._consent_key("yes")]) == before
        assert store.engine.get([store._consent_key("new")]) != [None]

    @pytest.mark.parametrize("raw", [None, b"", b"rubbish", b"TGC\x02" + encode_consent(NEVER_ASKED, "a")[4:]])
    def test_a_lost_or_damaged_record_is_a_no_that_no_bulk_load_ends(self, store: ProfileStore, raw, caplog) -> None:
        store.upsert([make_profile("a", played("a", 0).events, consent=asked(False)), played("b", 0)])
        plant(store, store._consent_key("a"), raw)

        assert [decision(store, user) for user in ("a", "b")] == ["denied", "not_asked"]
        with suppress(NewerRecord):
            store.upsert([played("a", 1)])
        assert store.engine.get([store._consent_key("a")]) == [raw]
        assert decision(store, "a") == "denied"
        assert raw is None or "consent record" in caplog.text or "a record" in caplog.text

    @pytest.mark.parametrize("raw", [None, b"rubbish"])
    def test_after_a_loss_only_an_answer_that_is_given_now_is_a_yes(self, store: ProfileStore, raw) -> None:
        now = now_us()
        store.upsert([make_profile("a", played("a", 0).events, consent=asked(False))])
        plant(store, store._consent_key("a"), raw)

        store.upsert([make_profile("a", consent=asked(True, now - DAY))])  # replayed: the lost no may be newer
        assert decision(store, "a", now) == "denied"
        store.upsert([make_profile("a", consent=asked(True, now))])
        assert decision(store, "a", now) == "granted"

    def test_in_a_store_that_lost_answers_nobody_counts_as_not_asked(self, store: ProfileStore) -> None:
        store.configure(Policy(50, None, lost_consent=True))
        store.upsert([played("a", 0)])

        assert [decision(store, user) for user in ("a", "nobody")] == ["denied", "denied"]
        now = now_us()
        store.upsert([make_profile("a", consent=asked(True, now - DAY)), make_profile("b", consent=asked(True, now))])
        assert [decision(store, user, now) for user in ("a", "b")] == ["denied", "granted"]

    @pytest.mark.parametrize(
        ("held", "expected"),
        [({PERSONALIZATION: [T, "e", T, False]}, "denied"), ({PERSONALIZATION: [T, "e", T, True]}, "granted"),
         ({}, "not_asked")],
    )  # fmt: skip
    def test_answers_in_profiles_of_format_1_hold_and_move(
        self, store: ProfileStore, held: dict, expected: str
    ) -> None:
        plant(store, key_of(store, "a"), format_1(held))
        assert decision(store, "a") == expected
        assert decision(store, "a", T + 400 * DAY) == expected

        store.upsert([played("a", 1)])
        assert store.engine.get([key_of(store, "a")])[0][3] == 2
        assert store.engine.get([store._consent_key("a")]) != [None]
        assert decision(store, "a") == expected
        assert numbers_of(store, "a") == [1]

    def test_half_a_surrogate_pair_may_refuse(self, store: ProfileStore) -> None:
        store.upsert([make_profile("\ud800", consent=asked(False))])

        assert decision(store, "\ud800") == "denied"

    def test_a_killed_writer_leaves_no_profile_whose_no_is_missing(
        self, store: ProfileStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        swap = store.engine.swap

        def killed(swaps: list[Swap]) -> list[bool]:
            swap(swaps[:1])
            raise KeyboardInterrupt

        monkeypatch.setattr(store.engine, "swap", killed)
        with pytest.raises(KeyboardInterrupt):
            store.upsert([make_profile("a", played("a", 0).events, consent=asked(False))])
        assert decision(store, "a") == "denied"


class TestWritersAtOnce:
    def test_two_lose_nothing(self, store: ProfileStore, reopen: Callable[[], ProfileStore]) -> None:
        store.configure(Policy(1000, None))
        failures: list[BaseException] = []

        def write(writer: ProfileStore, begin: int) -> None:
            try:
                for number in range(begin, 200, 2):
                    writer.upsert([played("hot", number), played(f"cold{begin}", number)])
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=write, args=(reopen(), begin)) for begin in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert not failures
        assert numbers_of(store, "hot") == list(range(200))

    def test_a_writer_that_always_loses_raises_and_overwrites_nothing(
        self, store: ProfileStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.upsert([played("alice", 1)])
        monkeypatch.setattr(store.engine, "swap", lambda swaps: [False] * len(swaps))

        with pytest.raises(StoreConflict, match="1 users"):
            store.upsert([played("alice", 2)])
        with pytest.raises(StoreConflict) as conflict:
            store.erase(["alice"])
        assert numbers_of(store, "alice") == [1]
        assert "alice" not in str(conflict.value)

    def test_a_swap_refuses_what_is_not_as_it_was(self, store: ProfileStore) -> None:
        key = b"tidegate:" + os.urandom(8)
        assert store.engine.swap([Swap(key, b"x", b"new")]) == [False]  # nothing there
        assert store.engine.swap([Swap(key, None, b"one"), Swap(key, None, b"two")]) == [True, False]
        assert store.engine.swap([Swap(key, b"two", None), Swap(key, b"two", b"three")]) == [False, False]
        assert store.engine.get([key]) == [b"one"]
        assert store.engine.swap([Swap(key, b"one", b"two"), Swap(key, b"two", None)]) == [True, True]
        assert store.engine.get([key]) == [None]

    @pytest.mark.slow
    def test_a_killed_one_has_lost_nothing_that_was_acknowledged(
        self, store: ProfileStore, url: str, namespace: str
    ) -> None:
        store.configure(Policy(100_000, None))
        program = """if True:
            import sys
            from features.feast_sdk import open_feast
            from features.online.connect import StoreSettings, connect
            from features.online.profile import Event, make_profile
            store = connect(sys.argv[1], StoreSettings(sys.argv[2]), writing=True, open_feast=open_feast)
            T = int(sys.argv[3])
            for number in range(10**6):
                store.upsert([make_profile("a", [Event(T + number, f"e{number:04d}", T + number, f"i{number}", "play")])])
                print(number, flush=True)
        """
        with subprocess.Popen(
            [sys.executable, "-c", program, namespace, url, str(T)], cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8"
        ) as writer:
            assert writer.stdout is not None
            for line in writer.stdout:
                if int(line) == 40:
                    writer.kill()
                    break
            acknowledged = [40, *map(int, writer.stdout.read().split())]  # what it got out before it died

        stored = numbers_of(store, "a")
        assert stored is not None
        assert stored[: acknowledged[-1] + 1] == list(range(acknowledged[-1] + 1))
        assert len(stored) <= acknowledged[-1] + 2  # at most one more, whose acknowledgement was cut off


class TestTrends:
    def trends(self, time_us: int, value: float) -> ItemTrends:
        return ItemTrends(["a", "b"], ["all", "window_1d"], np.full((2, 2), value, np.float32), time_us)

    def test_there_are_none_before_any_were_written(self, store: ProfileStore) -> None:
        assert store.read_trends(T) is None

    def test_what_was_written_is_read(self, store: ProfileStore, reopen: Callable[[], ProfileStore]) -> None:
        store.write_trends(self.trends(T, 0.1))

        found = reopen().read_trends(T)
        assert found is not None
        assert (found.item_ids, found.channels, found.time_us) == (["a", "b"], ["all", "window_1d"], T)
        np.testing.assert_array_equal(found.values, np.full((2, 2), 0.1, np.float32))

    def test_older_ones_do_not_replace_later_ones(self, store: ProfileStore) -> None:
        for time_us, value in ((T + 5, 5), (T + 5, 6), (T, 1)):
            store.write_trends(self.trends(time_us, value))

        found = store.read_trends(T + 9)
        assert found is not None
        assert (found.time_us, found.values[0, 0]) == (T + 5, 6)

    def test_none_are_given_twice_to_who_has_them(self, store: ProfileStore) -> None:
        store.write_trends(self.trends(T, 1))

        assert store.read_trends(T, newer_than_us=T) is None
        assert store.read_trends(T, newer_than_us=T - 1) is not None

    def test_later_or_expired_trends_are_not_read(self, store: ProfileStore) -> None:
        store.write_trends(self.trends(T, 1))

        assert store.read_trends(T - 1) is None
        assert store.read_trends(T + 30 * DAY) is not None
        assert store.read_trends(T + 30 * DAY + 1) is None

    def test_corrupt_trends_are_an_error_until_the_next_write(self, store: ProfileStore) -> None:
        store.write_trends(self.trends(T, 1))
        plant(store, store._trends_key, b"rubbish")
        with pytest.raises(StoreError, match="rubbish"):
            store.read_trends(T)

        store.write_trends(self.trends(T + 1, 2))
        assert store.read_trends(T + 1) is not None


class TestClosing:
    def test_a_closed_store_may_be_closed_again(self, store: ProfileStore) -> None:
        store.close()
        store.close()
