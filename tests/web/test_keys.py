"""Keys of any kind: those that are unknown, expired or revoked open nothing, and a damaged file is refused."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pytest

from config.command import UserError
from web.errors import ApiError
from web.keys import (
    Authenticator,
    KeyFileError,
    StoredKey,
    add_key,
    create,
    expires_after,
    hash_key,
    read_keys,
    revoke_key,
)


class GateKey(StoredKey):
    """A kind of key of these tests."""

    kind: ClassVar[str] = "gate key"
    command: ClassVar[str] = "gates.keys"
    usage: ClassVar[str] = "a gate key"

    gate: str


def test_a_key_reads_back_as_it_was_stored_and_its_text_is_not_there(tmp_path: Path) -> None:
    text, key = create(GateKey, None, gate="north")
    add_key(tmp_path / "keys.json", key)
    assert read_keys(tmp_path / "keys.json", GateKey) == [key]
    assert (key.gate, key.sha256) == ("north", hash_key(text))
    assert text not in (tmp_path / "keys.json").read_text(encoding="utf-8")


def test_a_key_opens_until_it_expires(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    valid, expired = create(GateKey, now + timedelta(hours=1), gate="a"), create(GateKey, now, gate="a")
    for _, key in (valid, expired):
        add_key(tmp_path / "keys.json", key)
    authenticator = Authenticator(tmp_path / "keys.json", GateKey)
    assert authenticator.authenticate(valid[0]) == valid[1]
    assert (valid[1].expiry, expired[1].expiry) == (f"expires {valid[1].expires}", f"expired {now}")
    for text, message in (
        (None, "expected a gate key"),
        (valid[1].sha256, "the gate key is unknown or was revoked"),
        (expired[0], f"the gate key expired at {now}"),
    ):
        with pytest.raises(ApiError) as error:
            authenticator.authenticate(text)
        assert (error.value.status_code, error.value.detail) == (401, message)


@pytest.mark.parametrize("days", [0, -1, 3651, float("nan")])
def test_a_key_expires_within_ten_years(days: float) -> None:
    with pytest.raises(UserError, match="expected more than 0 and at most 3650"):
        expires_after(days)


def test_a_revoked_key_opens_nothing_without_a_restart(tmp_path: Path) -> None:
    now = [0.0]
    text, key = create(GateKey, None, gate="north")
    authenticator = Authenticator(tmp_path / "keys.json", GateKey, lambda: now[0])
    assert not authenticator.has_keys
    add_key(tmp_path / "keys.json", key)
    now[0] = 2.0
    assert authenticator.authenticate(text) == key
    revoke_key(tmp_path / "keys.json", GateKey, key.id)
    now[0] = 4.0
    with pytest.raises(ApiError) as error:
        authenticator.authenticate(text)
    assert error.value.detail == "the gate key is unknown or was revoked"


def test_keys_that_can_no_longer_be_read_stay_as_they_were(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    text, key = create(GateKey, None, gate="north")
    add_key(tmp_path / "keys.json", key)
    authenticator = Authenticator(tmp_path / "keys.json", GateKey, lambda: now[0])
    (tmp_path / "keys.json").write_text("[{", encoding="utf-8")
    now[0] = 2.0
    assert authenticator.authenticate(text) == key
    assert "the gate keys stay as they were" in caplog.text


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        ("", 0o600, "is empty; restore it from a backup .*old keys stay invalid"),
        ("[{", 0o600, "is not as .*invalid JSON: .*; restore it from a backup"),
        ("[]", 0o620, r"may be changed by other users \(mode 0620\); chmod 600 it, and check its keys"),
    ],
)
def test_a_damaged_key_file_is_refused_and_no_key_is_added_to_it(
    tmp_path: Path, text: str, mode: int, message: str
) -> None:
    file = tmp_path / "keys.json"
    file.write_text(text, encoding="utf-8")
    file.chmod(mode)
    with pytest.raises(KeyFileError, match=f"{file} {message}"):
        add_key(file, create(GateKey, None, gate="north")[1])
    assert file.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", " is not as `gates.keys` wrote it: invalid JSON"),
        ("[1]", r"\[0\] is not as"),
        ('[{"id": "a", "sha256": "b", "gate": "a"}]', r"\[0\]\['expires'\] is not as .*: field required"),
        ('[{"id": "a", "sha256": "b", "gate": "a", "expires": "soon"}]', r"\[0\]\['expires'\] is not as"),
    ],
)
def test_an_error_of_stored_keys_names_the_place_and_the_fault(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "keys.json").write_text(text, encoding="utf-8")
    with pytest.raises(KeyFileError, match=f"keys.json{message}"):
        read_keys(tmp_path / "keys.json", GateKey)


def test_the_key_file_is_for_its_owner_only(tmp_path: Path) -> None:
    add_key(tmp_path / "keys.json", create(GateKey, None, gate="north")[1])
    assert stat.S_IMODE((tmp_path / "keys.json").stat().st_mode) == 0o600
