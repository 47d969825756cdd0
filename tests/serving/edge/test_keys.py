"""Who may ask: keys that are unknown, expired, revoked, or another user's."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta

import pytest
from fake_torchserve import FakeTorchServe
from running import Edge

from serving.edge import keyring, keys
from serving.edge.doorkeeper import Doorkeeper
from serving.edge.errors import Refusal
from serving.edge.limit import Limit

PATIENT = Limit(1000, 1000)


def refused(edge: Edge, **headers: str) -> str:
    """The message of a 401."""
    got = edge.http.post("/v1/recommendations", content=b"{}", headers=headers)
    assert got.status_code == 401
    assert got.headers["www-authenticate"] == "Bearer"
    assert (got.json()["code"], got.json()["field"]) == (401, "authorization")
    return got.json()["message"]


def test_without_a_key_that_holds_nothing_is_answered_or_asked(edge: Edge, torchserve: FakeTorchServe) -> None:
    assert "expected `Authorization: Bearer KEY`" in refused(edge)
    assert "expected" in refused(edge, authorization="Basic dXNlcjpwdw==")
    assert "expected" in refused(edge, authorization="Bearer")
    assert "is not known" in refused(edge, authorization=f"Bearer {edge.key}x")
    assert "is not known" in refused(edge, **{"x-api-key": edge.key[:-1]})
    assert "is not known" in refused(
        edge, authorization=f"Bearer {keyring.digest(edge.key)}"
    )  # what is stored is no key
    assert torchserve.users_asked() == []
    assert edge.count("tidegate_edge_refusals_total", status="401") == 6


def test_either_header_carries_a_key(edge: Edge) -> None:
    for headers in ({"authorization": f"bearer {edge.key}"}, {"x-api-key": edge.key}):
        assert edge.http.post("/v1/recommendations", content=b"{}", headers=headers).status_code == 200


def test_a_key_that_has_expired_says_when(edge: Edge) -> None:
    text, stored = keyring.new(keyring.SERVER, None, datetime(2026, 1, 1, tzinfo=UTC))
    keyring.add(edge.settings.keys_path, stored)
    edge.app.service.doorkeeper._look_again = 0
    assert refused(edge, authorization=f"Bearer {text}") == "the API key expired at 2026-01-01T00:00:00+00:00"


def test_a_revoked_key_opens_nothing_without_a_restart(tmp_path) -> None:
    now = [0.0]
    text, stored = keyring.new(keyring.SERVER, None, None)
    door = Doorkeeper(tmp_path / "keys.json", [], PATIENT, lambda: now[0])
    assert door.knows_nobody
    keyring.add(tmp_path / "keys.json", stored)
    now[0] = 2.0
    assert door.admit(b"Bearer " + text.encode(), None) == stored
    keyring.revoke(tmp_path / "keys.json", stored.id)
    now[0] = 4.0
    with pytest.raises(Refusal, match="has been revoked"):
        door.admit(b"Bearer " + text.encode(), None)


def test_keys_that_can_no_longer_be_read_stay_as_they_were(tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    text, stored = keyring.new(keyring.SERVER, None, None)
    keyring.add(tmp_path / "keys.json", stored)
    door = Doorkeeper(tmp_path / "keys.json", [], PATIENT, lambda: now[0])
    (tmp_path / "keys.json").write_text("[{")
    now[0] = 2.0
    assert door.admit(None, text.encode()) == stored
    assert "the keys stay as they were" in caplog.text


def test_a_users_key_asks_for_that_user_alone(edge: Edge, torchserve: FakeTorchServe) -> None:
    edge.answer({"user_id": "bob"})
    ann = edge.key_of("ann")
    got = edge.ask({"user_id": "bob"}, key=ann)
    assert got.status_code == 403
    assert got.json()["field"] == "user_id"
    assert "bob" not in got.text
    assert edge.get("user_id=bob", key=ann).status_code == 403
    own = edge.ask({"user_id": "ann"}, key=ann).json()
    unnamed = edge.ask({}, key=ann).json()
    assert own["items"] == unnamed["items"]
    assert own["items"][0]["item_id"] == "ann-000"
    torchserve.stop()  # nor does a lower rung give away what another user was told
    for _ in range(3):
        told = edge.ask({"k": 7}, key=ann).json()
        assert told["items"][0]["item_id"] == "ann-000"


def test_keys_of_the_environment_hold_too(tmp_path) -> None:
    text, stored = keyring.new(keyring.USER, "ann", None)
    listed = keyring.parse(
        f'[{{"id": "{stored.id}", "sha256": "{stored.sha256}", "role": "user", "user_id": "ann"}}]', "X"
    )
    door = Doorkeeper(tmp_path / "none.json", listed, PATIENT)
    assert door.admit(None, text.encode()).user_id == "ann"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "HERE holds no list of keys"),
        ("[1]", "HERE holds no list of keys"),
        ('[{"id": "a", "sha256": "b", "role": "king"}]', "HERE: key a: role is 'king'; expected server or user"),
        ('[{"id": "a", "sha256": "b", "role": "user"}]', "HERE: key a: a key of role user, and no other, names its"),
        ('[{"id": "a", "sha256": "b", "role": "server", "expires": "soon"}]', "HERE: key a: expires is 'soon'"),
    ],
)
def test_stored_keys_that_cannot_be_are_named(text: str, says: str) -> None:
    with pytest.raises(keyring.KeyringError, match=f"^{says.replace('[', '.')}"):
        keyring.parse(text, "HERE")


@pytest.fixture
def home(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TIDEGATE_EDGE_HOME", str(tmp_path))
    return tmp_path


def test_the_command_makes_lists_and_revokes(home, capsys: pytest.CaptureFixture[str]) -> None:
    assert keys.main(["make", "--role", "user", "--user", "ann", "--days", "30"]) == 0
    text = capsys.readouterr().out.strip()
    file = home / "keys.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert text not in file.read_text()
    (stored,) = keyring.read(file)
    assert stored.sha256 == keyring.digest(text)
    assert timedelta(days=29) < datetime.fromisoformat(stored.expires) - datetime.now(UTC) < timedelta(days=31)
    assert keys.main(["list"]) == 0
    assert f"{stored.id}  user    expires" in capsys.readouterr().out
    assert keys.main(["revoke", stored.id]) == 0
    assert keyring.read(file) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["make", "--role", "user"], "--user names the one user of a key of --role user"),
        (["make", "--user", "ann"], "--user names the one user of a key of --role user"),
        (["make", "--days", "0"], "--days is 0; expected more than 0"),
        (["revoke", "nosuch"], "{home}/keys.json holds no key nosuch"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    home, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert keys.main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {says.format(home=home)}")
    assert len(told.splitlines()) == 1
