"""Without consent nothing of the user is used, passed on or stored, and the answer says so; consent is read from a store."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path

import pytest
from fake_torchserve import FakeTorchServe
from memory_profiles import MemoryProfiles
from running import Start, wait_until

from data.consent import PERSONALIZATION, Answer, Decision
from features.online.connect import StoreSettings, connect
from features.online.profile import Event, TimedValue, make_profile
from features.online.store import Policy, ProfileStore
from serving.edge.consent import NO_PROFILE, OnlineProfileReader, UserProfile

GRANTED, DENIED, NOT_ASKED = (UserProfile(Decision(name), "s1") for name in ("granted", "denied", "not_asked"))
BODY = {
    "user_id": "ann",
    "history": [{"item_id": "ann-009", "event_time": "2026-01-01T00:00:00Z"}],
    "context": {"age_band": "25-34"},
    "exclude": ["popular-000"],
    "k": 3,
}


def test_a_user_who_consents_gets_a_personal_answer(start: Start) -> None:
    answer = start(MemoryProfiles({"ann": GRANTED})).answer({"user_id": "ann"})
    assert (answer["source"], answer["items"][0]["item_id"]) == ("personalized", "ann-000")


def test_a_user_who_does_not_consent_gets_what_everybody_gets_and_the_reason(
    start: Start, torchserve: FakeTorchServe
) -> None:
    edge = start(MemoryProfiles({"ann": DENIED}))
    answer = edge.answer(BODY)
    assert answer["source"] == "popular"
    assert answer["reason"] == "the user does not consent to personalization"
    assert [item["item_id"] for item in answer["items"]] == ["popular-001", "popular-002", "popular-003"]
    (sent,) = [body for _, body in torchserve.requests if body["k"] == 3]
    assert sent == {"history": [], "k": 3, "exclude": ["popular-000"]}
    (line,) = edge.served()
    assert line["consent"] == "denied"


def test_withdrawn_consent_holds_at_once_and_for_every_source(start: Start, torchserve: FakeTorchServe) -> None:
    users = MemoryProfiles({"ann": GRANTED})
    edge = start(users)
    assert edge.answer({"user_id": "ann"})["source"] == "personalized"
    users.profiles["ann"] = DENIED
    assert edge.answer({"user_id": "ann"})["items"][0]["item_id"] == "popular-000"
    torchserve.stop()
    answer = edge.answer({"user_id": "ann", "k": 4})
    assert answer["source"] == "popular"
    assert answer["reason"].startswith("the user does not consent to personalization; TorchServe")


def test_a_clients_denial_holds_and_its_grant_overrides_no_denial(start: Start) -> None:
    edge = start(MemoryProfiles({"ann": GRANTED, "bob": DENIED}))
    assert edge.answer({"user_id": "ann"}, x_consent="denied")["source"] == "popular"
    assert edge.answer({"user_id": "bob"}, x_consent="granted")["source"] == "popular"
    got = edge.ask({}, x_consent="maybe")
    assert (got.status_code, got.json()["field"]) == (400, "X-Consent")


@pytest.mark.parametrize("users", [MemoryProfiles(), MemoryProfiles({"ann": NOT_ASKED})])
def test_personalization_by_default_is_a_setting(start: Start, users) -> None:
    assert start(users).answer({"user_id": "ann"})["source"] == "personalized"
    strict = start(users, personalize_by_default=False)
    answer = strict.answer({"user_id": "ann"})
    assert (answer["source"], answer["reason"]) == (
        "popular",
        "the user was not asked for consent to personalization",
    )
    assert strict.answer({"user_id": "ann"}, x_consent="granted")["source"] == "personalized"


class Faulty(MemoryProfiles):
    """A store that hangs or fails on demand."""

    fault: str | None = None
    reads = 0

    async def read(self, user_id: str) -> UserProfile:
        self.reads += 1
        if self.fault == "hung":
            await asyncio.sleep(3600)
        if self.fault == "failing":
            raise ConnectionError("the store is gone")
        return await super().read(user_id)


@pytest.mark.parametrize(
    ("fault", "message"), [("hung", "did not answer within 400 ms"), ("failing", "failed (Connec")]
)
def test_a_failing_store_costs_personalization_and_heals_by_itself(start: Start, fault: str, message: str) -> None:
    users = Faulty({"ann": GRANTED})
    edge = start(users, store_ms=400)
    assert edge.answer({"user_id": "ann"})["source"] == "personalized"
    users.fault = fault
    answer = edge.answer({"user_id": "ann"})
    assert answer["source"] == "popular"
    assert message in answer["reason"]
    assert "consent to personalization is not known" in answer["reason"]
    users.fault = None
    wait_until(lambda: edge.answer({"user_id": "ann"})["source"] == "personalized")


def test_a_store_that_keeps_failing_is_not_read_for_a_while(start: Start) -> None:
    users = Faulty({"ann": GRANTED})
    edge = start(users, breaker_seconds=60)
    users.fault = "failing"
    for _ in range(5):
        edge.answer({"user_id": "ann"})
    asked = users.reads
    assert "because it kept failing" in edge.answer({"user_id": "ann"})["reason"]
    assert users.reads == asked
    assert edge.count("tidegate_edge_breaker_opened_total", part="store") == 1


def test_short_deadlines_do_not_count_as_failures_of_the_store(start: Start) -> None:
    users = Faulty({"ann": GRANTED})
    edge = start(users, breaker_seconds=60)
    users.fault = "hung"
    for allowed in (10, 10, 10, 210, 210, 210, 210, 210):
        answer = edge.answer({"user_id": "ann"}, x_deadline_ms=str(allowed))
        assert answer["source"] == "popular"
    users.fault = None
    assert edge.answer({"user_id": "ann"})["source"] == "personalized"


def test_a_request_without_a_user_reads_no_profile(start: Start) -> None:
    users = Faulty()
    start(users).answer({"history": BODY["history"]})
    assert users.reads == 0


def test_users_who_share_an_answer_do_not_share_its_reason(start: Start) -> None:
    edge = start(MemoryProfiles({"ann": DENIED, "bob": NO_PROFILE}), personalize_by_default=False)
    answers = [edge.answer({"user_id": user}) for user in ("ann", "bob", "ann")]
    denied, not_asked = "does not consent", "was not asked"
    assert all(reason in answer["reason"] for reason, answer in zip((denied, not_asked, denied), answers, strict=True))
    assert [answer["cache"] for answer in answers] == ["miss", "miss", "hit"]


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


def consent_given(granted: bool, minutes_ago: int = 5) -> dict[str, Answer]:
    return {PERSONALIZATION: Answer(granted, NOW - minutes_ago * MINUTE, "page")}


def read(store: ProfileStore, user: str) -> UserProfile:
    return asyncio.run(OnlineProfileReader(lambda: store).read(user))


def test_consent_is_the_users_last_answer(store: ProfileStore) -> None:
    store.upsert(
        [
            make_profile("ann", consent=consent_given(True, 9)),
            make_profile("bob", consent=consent_given(True, 9)),
            make_profile("eve", [event(9, "a")]),
        ]
    )
    store.upsert([make_profile("bob", consent=consent_given(False, 5))])

    found = [read(store, user).consent for user in ("ann", "bob", "eve", "nobody")]
    assert found == ["granted", "denied", "not_asked", "not_asked"]


@pytest.mark.parametrize("file", ["online.db", "online.consent.db"])
def test_a_no_holds_when_a_record_is_damaged_and_no_yes_does_when_its_own_is(
    store: ProfileStore, tmp_path: Path, start: Start, file: str
) -> None:
    store.upsert(
        [
            make_profile("ann", [event(9, "a")], None, consent_given(False)),
            make_profile("bob", [event(9, "a")], None, consent_given(True)),
        ]
    )
    with sqlite3.connect(tmp_path / file) as database:
        database.execute("UPDATE records SET value = x'00' WHERE CAST(key AS TEXT) NOT LIKE '%:policy'")
    edge = start(OnlineProfileReader(lambda: store))

    answers = [edge.answer({"user_id": user}) for user in ("ann", "bob", "eve")]

    lost = "consent to personalization was lost, which counts as a no"
    if file == "online.db":
        assert [answer["source"] for answer in answers] == ["popular", "personalized", "personalized"]
        assert "does not consent" in answers[0]["reason"]
    else:
        assert [answer["source"] for answer in answers] == ["popular", "popular", "personalized"]
        assert all(lost in answer["reason"] for answer in answers[:2])
        assert edge.count("tidegate_edge_consent_total", consent="lost") == 2
        assert edge.answer({"user_id": "bob"}, x_consent="granted")["source"] == "popular"


@pytest.mark.parametrize("minutes_ago", [5, -60], ids=["earlier", "stamped by a clock that runs ahead"])
def test_a_no_holds_after_the_profile_expired_and_after_all_profiles_are_written_again(
    store: ProfileStore, tmp_path: Path, start: Start, minutes_ago: int
) -> None:
    old = Event(NOW - 900 * MINUTE, "e", NOW - 900 * MINUTE, "a", "play")
    profiles = [make_profile("ann", [old]), make_profile("eve", [old])]
    store.upsert([*profiles, make_profile("ann", consent=consent_given(False, minutes_ago))])
    edge = start(OnlineProfileReader(lambda: store))
    assert [edge.answer({"user_id": user})["source"] for user in ("ann", "eve")] == ["popular", "personalized"]

    store.configure(Policy(max_events=100, ttl_us=MINUTE))
    assert read(store, "ann") == UserProfile(Decision.DENIED, "")
    assert "does not consent" in edge.answer({"user_id": "ann", "k": 3})["reason"]

    for name in ("online.db", "online.db-wal", "online.db-shm"):
        (tmp_path / name).unlink()
    assert "was not read" not in edge.answer({"user_id": "ann", "k": 4})["reason"]
    assert edge.answer({"user_id": "ann", "k": 5})["source"] == "popular"
    again = connect("made", StoreSettings(f"sqlite:///{tmp_path}/online.db"), writing=True)
    again.configure(Policy(max_events=100, ttl_us=None))
    again.upsert(profiles)
    wait_until(lambda: "does not consent" in edge.answer({"user_id": "ann", "k": 6})["reason"])
    assert edge.answer({"user_id": "eve", "k": 6})["source"] == "personalized"


def test_a_running_edge_reads_the_file_that_replaced_its_store(
    store: ProfileStore, tmp_path: Path, start: Start
) -> None:
    store.upsert([make_profile("ann", [event(9, "a")], None, consent_given(True))])
    edge = start(OnlineProfileReader(lambda: connect("made", StoreSettings(f"sqlite:///{tmp_path}/online.db"))))
    assert edge.answer({"user_id": "ann"})["source"] == "personalized"

    other = connect("made", StoreSettings(f"sqlite:///{tmp_path}/other/online.db"), writing=True)
    other.configure(Policy(max_events=100, ttl_us=None))
    other.upsert([make_profile("ann", [event(9, "a")], None, consent_given(False))])
    other.close()
    store.close()
    for path in sorted((tmp_path / "other").iterdir()):
        path.rename(tmp_path / path.name)

    assert "does not consent" in edge.answer({"user_id": "ann"})["reason"]


def test_without_a_store_no_user_gets_personal_answers_and_reading_creates_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Start
) -> None:
    monkeypatch.setenv("TIDEGATE_STORE", f"sqlite:///{tmp_path}/online.db")
    users = OnlineProfileReader.from_environment("made")
    edge = start(users, breaker_failures=100)
    for body in ({"user_id": "ann"}, {"user_id": "ann", "history": BODY["history"]}):
        answer = edge.answer(body, x_consent="granted")
        assert answer["source"] == "popular"
        assert "consent to personalization is not known" in answer["reason"]
    assert edge.answer({"history": BODY["history"]})["source"] == "personalized", "it names nobody"
    assert not any(tmp_path.glob("online.*"))

    filled = connect("made", StoreSettings(f"sqlite:///{tmp_path}/online.db"), writing=True)
    filled.configure(Policy(max_events=100, ttl_us=None))
    filled.upsert([make_profile("ann", consent=consent_given(False))])
    assert asyncio.run(users.read("ann")).consent is Decision.DENIED


@pytest.mark.parametrize("spelling", ["7", " 7 ", "7.0"])
def test_a_denial_holds_for_every_spelling_of_the_user(store: ProfileStore, start: Start, spelling: str) -> None:
    store.upsert([make_profile("7", consent=consent_given(False))])
    edge = start(OnlineProfileReader(lambda: store))
    edge.service.pipeline.fallback.popular.numeric_ids.append("user_id")

    assert edge.answer({"user_id": spelling})["reason"] == "the user does not consent to personalization"


@pytest.mark.parametrize("change", [[event(2, "b")], [event(30, "late")]])
def test_every_new_event_changes_the_profile_version(store: ProfileStore, change: list[Event]) -> None:
    store.upsert([make_profile("ann", [event(9, "a")])])
    before = read(store, "ann")
    assert read(store, "ann") == before

    store.upsert([make_profile("ann", change)])

    assert read(store, "ann").version != before.version


def test_the_next_answer_after_a_new_event_is_fresh(store: ProfileStore, start: Start) -> None:
    store.upsert([make_profile("ann", [event(9, "a")])])
    edge = start(OnlineProfileReader(lambda: store))
    assert [edge.answer({"user_id": "ann"})["cache"] for _ in range(2)] == ["miss", "hit"]

    store.upsert([make_profile("ann", [event(2, "b")])])

    assert edge.answer({"user_id": "ann"})["cache"] == "miss"


def test_a_profile_that_the_worker_cannot_read_is_sent_unless_the_request_has_a_history_or_consent_is_missing(
    store: ProfileStore, start: Start, torchserve: FakeTorchServe
) -> None:
    traits = {
        "plan": TimedValue(NOW - MINUTE, "t", NOW - MINUTE, "free"),
        "age": TimedValue(NOW - MINUTE, "t", NOW - MINUTE, 30),
    }
    store.upsert(
        [
            make_profile("ann", [event(9, "a"), event(20, "b")], traits),
            make_profile("bob", [event(9, "a")], consent=consent_given(False)),
        ]
    )
    edge = start(OnlineProfileReader(lambda: store, sends_features=True))
    edge.answer({"user_id": "ann", "k": 3, "context": {"age": 31}})
    edge.answer({"user_id": "ann", "k": 4, "history": []})
    edge.answer({"user_id": "bob", "k": 5})

    sent = {body["k"]: body for _, body in torchserve.requests}
    assert [one["item_id"] for one in sent[3]["history"]] == ["b", "a"]
    assert sent[3]["context"] == {"plan": "free", "age": 31}
    assert sent[4] == {"user_id": "ann", "k": 4, "history": []}
    assert sent[5] == {"history": [], "k": 5}
