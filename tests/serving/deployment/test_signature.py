"""Only a known key makes a valid signature; the key file is its owner's alone, and keys can be rotated."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from config.paths import ROOT
from serving import gate_key
from serving.deployment import signature
from serving.deployment.signature import GateKeys, SignatureError, key_id
from serving.settings import ServerSettings
from serving.torchserve import launch

STATEMENT = {"verdict": "HOLD", "version": "3"}
OLD, NEW = "o" * 32, "n" * 32


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A path for the key; no file is there yet."""
    monkeypatch.delenv("TIDEGATE_GATE_KEY", raising=False)
    path = tmp_path / "keys" / "gate"
    monkeypatch.setenv("TIDEGATE_GATE_KEY_FILE", str(path))
    return path


def test_a_verified_statement_comes_with_its_kind_and_key() -> None:
    keys = GateKeys((OLD,), "here")
    statement = keys.verify("report", keys.sign("report", STATEMENT), "it")
    assert statement == STATEMENT | {"kind": "report", "key": key_id(OLD)}


@pytest.mark.parametrize("changed", [{"verdict": "PROMOTE"}, {"version": "4"}, {"more": 1}, {"kind": "move"}])
def test_a_statement_that_was_changed_after_signing_is_refused(changed: dict) -> None:
    keys = GateKeys((OLD,), "here")
    envelope = json.loads(keys.sign("report", STATEMENT))
    envelope["signed"] |= changed
    with pytest.raises(SignatureError, match=r"^it was changed after it was signed"):
        keys.verify(changed.get("kind", "report"), json.dumps(envelope), "it")


def test_a_signature_of_another_key_is_refused_even_if_it_names_a_known_key() -> None:
    text = GateKeys((NEW,), "there").sign("report", STATEMENT)
    with pytest.raises(SignatureError, match=f"^it was signed by the key {key_id(NEW)}; here holds {key_id(OLD)}"):
        GateKeys((OLD,), "here").verify("report", text, "it")
    envelope = json.loads(text)
    envelope["signed"]["key"] = key_id(OLD)
    with pytest.raises(SignatureError, match="changed after it was signed"):
        GateKeys((OLD,), "here").verify("report", json.dumps(envelope), "it")


def test_a_statement_signed_as_one_kind_is_refused_as_another() -> None:
    keys = GateKeys((OLD,), "here")
    with pytest.raises(SignatureError, match="it is signed as report, not as move"):
        keys.verify("move", keys.sign("report", STATEMENT), "it")


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"signed": 1, "hmac_sha256": "a"}', '{"signed": {}}'])
def test_text_without_a_signature_is_refused(text: str) -> None:
    with pytest.raises(SignatureError, match="carries no signature"):
        GateKeys((OLD,), "here").verify("report", text, "it")


def test_the_first_signature_creates_a_key_that_only_its_owner_may_read(key_file: Path) -> None:
    before = os.umask(0)  # the mode may not depend on it
    try:
        text = signature.load_keys(create=True).sign("report", STATEMENT)
    finally:
        os.umask(before)
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(key_file.parent.stat().st_mode) == 0o700
    assert {path.name for path in key_file.parent.iterdir()} <= {"gate", "gate.lock"}
    assert signature.load_keys().verify("report", text, "it")["verdict"] == "HOLD"


def test_verifying_creates_no_key(key_file: Path) -> None:
    with pytest.raises(SignatureError, match=rf"there is no key at {key_file}.*TIDEGATE_GATE_KEY"):
        signature.load_keys().verify("report", GateKeys((OLD,), "x").sign("report", STATEMENT), "it")
    assert not key_file.exists()


def test_concurrent_first_signatures_use_one_key(key_file: Path) -> None:
    with ThreadPoolExecutor(4) as crowd:
        texts = list(crowd.map(lambda _: signature.load_keys(create=True).sign("report", STATEMENT), range(8)))
    assert len({json.loads(text)["signed"]["key"] for text in texts}) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622, 0o644])
def test_a_key_file_that_other_users_may_read_or_write_is_refused(key_file: Path, mode: int) -> None:
    signature.load_keys(create=True).sign("report", STATEMENT)
    key_file.chmod(mode)
    with pytest.raises(SignatureError, match=rf"{key_file} is open to other users \(mode 0{mode:o}\); chmod 600 it"):
        signature.load_keys(create=True).sign("report", STATEMENT)


KEY = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"short\n", "{path} holds a key of 5 characters; expected at least 32"),
        (
            b"",
            "{path} is empty; remove it, then restore it from a backup .*gate_key create`: nothing that the lost key",
        ),
        (b"\n", "{path} is empty"),
        (KEY[:40].encode(), r"{path} was cut off: its last key has 40 of 64 digits .*; remove it, then restore it"),
        (f"{KEY}\n{KEY[:7]}".encode(), "{path} was cut off: its last key has 7 of 64 digits"),
        (b"\0" * 64, "{path} is damaged: it is not text; remove it"),
        (b"\xff" * 64, "{path} is damaged: it is not text; remove it"),
    ],
)
def test_a_damaged_key_file_is_refused_with_the_way_to_recover(key_file: Path, content: bytes, message: str) -> None:
    key_file.parent.mkdir()
    key_file.touch(mode=0o600)
    key_file.write_bytes(content)
    for create in (False, True):
        with pytest.raises(SignatureError, match=message.format(path=key_file)) as error:
            signature.load_keys(create)
        assert len(str(error.value).splitlines()) == 1
    assert key_file.read_bytes() == content


@pytest.mark.parametrize("text", [KEY, f"{KEY}\n", f"{KEY[:32]}\n", OLD])
def test_a_whole_key_may_end_with_a_line_break_or_not(key_file: Path, text: str) -> None:
    key_file.parent.mkdir()
    key_file.touch(mode=0o600)
    key_file.write_text(text, encoding="utf-8")
    assert signature.load_keys().secrets == (text.strip(),)


def test_a_folder_in_place_of_the_key_is_refused(key_file: Path) -> None:
    key_file.mkdir(parents=True)
    with pytest.raises(SignatureError, match=rf"{key_file} cannot be read \(Is a directory\); remove it, then restore"):
        signature.load_keys(create=True)


def test_the_key_is_created_by_command_only_where_there_is_none(key_file: Path, capsys) -> None:
    assert gate_key.main(["rotate"]) == 2
    assert f"there is no key at {key_file}" in capsys.readouterr().err
    assert gate_key.main(["create"]) == 0
    secret = key_file.read_text(encoding="utf-8")
    assert gate_key.main(["create"]) == 2
    assert f"{key_file} exists" in capsys.readouterr().err
    assert key_file.read_text(encoding="utf-8") == secret


def test_a_key_from_the_environment_needs_no_file(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_GATE_KEY", f"{NEW} {OLD}")
    with pytest.raises(SignatureError, match="TIDEGATE_GATE_KEY and TIDEGATE_GATE_KEY_FILE are both set"):
        signature.load_keys()
    monkeypatch.delenv("TIDEGATE_GATE_KEY_FILE")
    assert signature.load_keys().secrets == (NEW, OLD)
    assert gate_key.main(["rotate"]) == 2
    assert not key_file.exists()


def test_a_rotated_key_no_longer_signs_and_verifies_until_it_is_forgotten(key_file: Path, capsys) -> None:
    old = signature.load_keys(create=True).sign("report", STATEMENT)
    old_id = json.loads(old)["signed"]["key"]
    assert gate_key.main(["rotate"]) == 0
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    new_id = json.loads(signature.load_keys(create=True).sign("report", STATEMENT))["signed"]["key"]
    assert new_id != old_id
    assert signature.load_keys().verify("report", old, "it")

    capsys.readouterr()
    assert gate_key.main(["list"]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[:2] for line in shown.splitlines()] == [[new_id, "signs"], [old_id, "verifies"]]
    assert not [secret for secret in signature.load_keys().secrets if secret in shown]

    assert gate_key.main(["forget", new_id]) == 2
    assert gate_key.main(["forget", "0000"]) == 2
    assert gate_key.main(["forget", old_id]) == 0
    with pytest.raises(SignatureError, match=f"signed by the key {old_id}; {key_file} holds {new_id}"):
        signature.load_keys().verify("report", old, "it")


def test_git_ignores_the_key_of_a_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIDEGATE_GATE_KEY_FILE", raising=False)
    monkeypatch.delenv("TIDEGATE_STATE")
    path = ServerSettings().gate_key_path
    assert path.is_relative_to(ROOT)
    ignored = subprocess.run(["git", "check-ignore", "-q", str(path)], cwd=ROOT, check=False).returncode
    if ignored == 128:
        pytest.skip("not a git clone")
    assert ignored == 0


def test_torchserve_does_not_get_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_GATE_KEY", OLD)
    monkeypatch.setenv("TIDEGATE_GATE_KEY_FILE", "somewhere")
    assert not [name for name in launch.environment(tmp_path, tmp_path) if "GATE_KEY" in name]
