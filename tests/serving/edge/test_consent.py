"""Without consent nothing of the user is used, told on or kept, and the answer says so."""

from __future__ import annotations

import asyncio

import pytest
from fake_torchserve import FakeTorchServe
from running import Start, wait_until

from serving.edge.consent import Memory, NoStore, Standing

YES, NO, UNASKED = Standing(True, "s1"), Standing(False, "s1"), Standing(None, "s1")
BODY = {
    "user_id": "ann",
    "history": [{"item_id": "ann-009", "event_time": "2026-01-01T00:00:00Z"}],
    "context": {"age_band": "25-34"},
    "exclude": ["popular-000"],
    "k": 3,
}


def test_who_agrees_gets_a_personal_answer(start: Start) -> None:
    answer = start(Memory({"ann": YES})).answer({"user_id": "ann"})
    assert (answer["rung"], answer["items"][0]["item_id"]) == ("personalised", "ann-000")


def test_who_does_not_agree_gets_what_everybody_gets_and_is_told(start: Start, torchserve: FakeTorchServe) -> None:
    edge = start(Memory({"ann": NO}))
    answer = edge.answer(BODY)
    assert answer["rung"] == "popular"
    assert answer["reason"] == "the user does not agree to personalisation"
    assert [item["item_id"] for item in answer["items"]] == ["popular-001", "popular-002", "popular-003"]
    (told,) = [body for _, body in torchserve.asked if body["k"] == 3]
    assert told == {"history": [], "k": 3, "exclude": ["popular-000"]}
    (line,) = edge.served()
    assert line["consent"] == "denied"


def test_withdrawn_consent_holds_at_once_and_on_every_rung(start: Start, torchserve: FakeTorchServe) -> None:
    users = Memory({"ann": YES})
    edge = start(users)
    assert edge.answer({"user_id": "ann"})["rung"] == "personalised"
    users.standings["ann"] = NO
    assert edge.answer({"user_id": "ann"})["items"][0]["item_id"] == "popular-000"
    torchserve.stop()
    answer = edge.answer({"user_id": "ann", "k": 4})
    assert answer["rung"] == "popular"
    assert answer["reason"].startswith("the user does not agree to personalisation; TorchServe")


def test_a_clients_no_holds_and_its_yes_undoes_no_no(start: Start) -> None:
    edge = start(Memory({"ann": YES, "bob": NO}))
    assert edge.answer({"user_id": "ann"}, x_consent="denied")["rung"] == "popular"
    assert edge.answer({"user_id": "bob"}, x_consent="granted")["rung"] == "popular"
    got = edge.ask({}, x_consent="maybe")
    assert (got.status_code, got.json()["field"]) == (400, "X-Consent")


@pytest.mark.parametrize("users", [NoStore(), Memory({"ann": UNASKED})])
def test_whether_silence_is_consent_is_a_setting(start: Start, users) -> None:
    assert start(users).answer({"user_id": "ann"})["rung"] == "personalised"
    strict = start(users, consent_unasked=False)
    answer = strict.answer({"user_id": "ann"})
    assert (answer["rung"], answer["reason"]) == (
        "popular",
        "nobody asked the user to agree to personalisation",
    )
    assert strict.answer({"user_id": "ann"}, x_consent="granted")["rung"] == "personalised"


class Faulty(Memory):
    """A store that hangs or fails when told to."""

    fault: str | None = None
    reads = 0

    async def read(self, user_id: str) -> Standing:
        self.reads += 1
        if self.fault == "hung":
            await asyncio.sleep(3600)
        if self.fault == "failing":
            raise ConnectionError("the store is gone")
        return await super().read(user_id)


@pytest.mark.parametrize(("fault", "says"), [("hung", "did not answer within 400 ms"), ("failing", "failed (Connec")])
def test_a_store_that_fails_costs_personalisation_and_heals_by_itself(start: Start, fault: str, says: str) -> None:
    users = Faulty({"ann": YES})
    edge = start(users, store_ms=400)
    assert edge.answer({"user_id": "ann"})["rung"] == "personalised"
    users.fault = fault
    answer = edge.answer({"user_id": "ann"})
    assert answer["rung"] == "popular"
    assert says in answer["reason"]
    assert "agrees to personalisation is not known" in answer["reason"]
    users.fault = None
    wait_until(lambda: edge.answer({"user_id": "ann"})["rung"] == "personalised")


def test_a_store_that_keeps_failing_is_left_alone(start: Start) -> None:
    users = Faulty({"ann": YES})
    edge = start(users, breaker_seconds=60)
    users.fault = "failing"
    for _ in range(5):
        edge.answer({"user_id": "ann"})
    asked = users.reads
    assert "was not asked, since it kept failing" in edge.answer({"user_id": "ann"})["reason"]
    assert users.reads == asked
    assert edge.count("tidegate_edge_breaker_opened_total", part="store") == 1


def test_the_impatient_are_not_held_against_the_store(start: Start) -> None:
    users = Faulty({"ann": YES})
    edge = start(users, breaker_seconds=60)
    users.fault = "hung"
    for allowed in (10, 10, 10, 210, 210, 210, 210, 210):
        answer = edge.answer({"user_id": "ann"}, x_deadline_ms=str(allowed))
        assert answer["rung"] == "popular"
    users.fault = None
    assert edge.answer({"user_id": "ann"})["rung"] == "personalised"


def test_who_has_no_name_is_not_looked_up(start: Start) -> None:
    users = Faulty()
    start(users).answer({"history": BODY["history"]})
    assert users.reads == 0


def test_those_who_share_an_answer_do_not_share_its_reason(start: Start) -> None:
    edge = start(Memory({"ann": NO, "bob": Standing(None, "")}), consent_unasked=False)
    told = [edge.answer({"user_id": user}) for user in ("ann", "bob", "ann")]
    assert [answer["reason"].split()[0] for answer in told] == ["the", "nobody", "the"]
    assert [answer["cache"] for answer in told] == ["miss", "miss", "hit"]
