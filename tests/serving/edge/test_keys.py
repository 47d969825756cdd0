"""API keys that are unknown, expired, revoked or another user's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fake_torchserve import FakeTorchServe
from running import Edge

from serving.edge import keys
from serving.edge.keys import ApiKey, create_key
from web.keys import add_key, hash_key, read_keys


def refusal(edge: Edge, **headers: str) -> str:
    """The message of a 401."""
    got = edge.http.post("/v1/recommendations", content=b"{}", headers=headers)
    assert got.status_code == 401
    assert got.headers["www-authenticate"] == "Bearer"
    assert (got.json()["code"], got.json()["field"]) == (401, "authorization")
    return got.json()["message"]


def test_without_a_valid_key_nothing_is_answered_or_passed_on(edge: Edge, torchserve: FakeTorchServe) -> None:
    assert "expected `Authorization: Bearer KEY`" in refusal(edge)
    assert "expected" in refusal(edge, authorization="Basic dXNlcjpwdw==")
    assert "expected" in refusal(edge, authorization="Bearer")
    assert "unknown" in refusal(edge, authorization=f"Bearer {edge.key}x")
    assert "unknown" in refusal(edge, **{"x-api-key": edge.key[:-1]})
    assert "unknown" in refusal(edge, authorization=f"Bearer {hash_key(edge.key)}")  # the stored hash opens nothing
    assert torchserve.requested_users() == []
    assert edge.count("tidegate_edge_refusals_total", status="401", reason="key") == 6


def test_the_key_is_checked_before_the_body_and_the_headers(edge: Edge) -> None:
    got = edge.ask(b"{", key="wrong", x_deadline_ms="soon")
    assert got.status_code == 401


def test_either_header_carries_a_key(edge: Edge) -> None:
    for headers in ({"authorization": f"bearer {edge.key}"}, {"x-api-key": edge.key}):
        assert edge.http.post("/v1/recommendations", content=b"{}", headers=headers).status_code == 200


def test_the_error_of_an_expired_key_names_its_end(edge: Edge) -> None:
    text, key = create_key(None, datetime(2026, 1, 1, tzinfo=UTC))
    add_key(edge.settings.keys_path, key)
    edge.service.authenticator.reload(force=True)
    assert refusal(edge, authorization=f"Bearer {text}") == "the API key expired at 2026-01-01 00:00:00+00:00"


def test_a_users_key_asks_for_that_user_only(edge: Edge, torchserve: FakeTorchServe) -> None:
    edge.answer({"user_id": "bob"})  # his cached answer is there to be stolen
    ann = edge.key_of("ann")
    refused = [
        edge.ask({"user_id": "bob"}, key=ann),
        edge.ask({"user_id": "Ann"}, key=ann),
        edge.get("user_id=bob", key=ann),
        edge.get("user_id=%62ob", key=ann),
        edge.ask(b'{"user_id":"\\u0062ob"}', key=ann),
    ]
    assert [(got.status_code, got.json()["field"]) for got in refused] == [(403, "user_id")] * len(refused)
    assert not any("bob" in got.text for got in refused)
    for twice in (b'{"user_id":"ann","user_id":"bob"}', b'{"user_id":"bob","user_id":"ann"}'):
        assert edge.ask(twice, key=ann).status_code == 400
    assert edge.get("user_id=ann&user_id=bob", key=ann).status_code == 400
    assert torchserve.requested_users() == ["bob"]

    bodies: list[dict] = [{"user_id": "ann"}, {"user_id": None}, {"user_id": " ann "}]
    own, unnamed, padded = (edge.ask(body, key=ann).json() for body in bodies)
    assert own["items"] == unnamed["items"] == padded["items"]
    assert own["items"][0]["item_id"] == "ann-000"
    torchserve.stop()  # nor does a fallback give away another user's answer
    for _ in range(3):
        assert edge.ask({"k": 7}, key=ann).json()["items"][0]["item_id"] == "ann-000"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIDEGATE_EDGE_HOME", str(tmp_path))
    return tmp_path


def test_the_command_makes_lists_and_revokes(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert keys.main(["make", "--user", "ann", "--days", "30"]) == 0
    text = capsys.readouterr().out.strip()
    file = home / "keys.json"
    assert text not in file.read_text(encoding="utf-8")
    (key,) = read_keys(file, ApiKey)
    assert key.sha256 == hash_key(text)
    assert timedelta(days=29) < key.expires - datetime.now(UTC) < timedelta(days=31)
    assert keys.main(["list"]) == 0
    assert f"{key.id}  expires" in capsys.readouterr().out
    assert keys.main(["revoke", key.id]) == 0
    assert read_keys(file, ApiKey) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["make", "--days", "0"], "--days is 0; expected more than 0"),
        (["revoke", "nosuch"], "{home}/keys.json holds no key nosuch"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert keys.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message.format(home=home)}")
    assert len(error.splitlines()) == 1
