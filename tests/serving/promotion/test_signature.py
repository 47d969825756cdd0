"""A signature holds only what a key of ours signed; the key is the owner's alone, and can be rotated."""

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
from serving.deployment.signature import Keys, SignatureError, key_id
from serving.settings import ServerSettings
from serving.torchserve import launch

STATEMENT = {"verdict": "HOLD", "version": "3"}
OLD, NEW = "o" * 32, "n" * 32


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for the key, where none is yet."""
    monkeypatch.delenv("TIDEGATE_GATE_KEY", raising=False)
    path = tmp_path / "keys" / "gate"
    monkeypatch.setenv("TIDEGATE_GATE_KEY_FILE", str(path))
    return path


def test_what_was_signed_is_told_with_its_kind_and_key() -> None:
    keys = Keys((OLD,), "here")
    told = keys.verified("report", keys.sign("report", STATEMENT), "it")
    assert told == STATEMENT | {"kind": "report", "key": key_id(OLD)}


@pytest.mark.parametrize("changed", [{"verdict": "PROMOTE"}, {"version": "4"}, {"more": 1}, {"kind": "move"}])
def test_what_was_changed_after_it_was_signed_is_refused(changed: dict) -> None:
    keys = Keys((OLD,), "here")
    envelope = json.loads(keys.sign("report", STATEMENT))
    envelope["signed"] |= changed
    with pytest.raises(SignatureError, match=r"^it was changed after it was signed"):
        keys.verified(changed.get("kind", "report"), json.dumps(envelope), "it")


def test_what_another_key_signed_is_refused_though_it_claims_ours() -> None:
    text = Keys((NEW,), "there").sign("report", STATEMENT)
    with pytest.raises(SignatureError, match=f"^it was signed by the key {key_id(NEW)}; here holds {key_id(OLD)}"):
        Keys((OLD,), "here").verified("report", text, "it")
    envelope = json.loads(text)
    envelope["signed"]["key"] = key_id(OLD)
    with pytest.raises(SignatureError, match="changed after it was signed"):
        Keys((OLD,), "here").verified("report", json.dumps(envelope), "it")


def test_what_is_signed_as_one_thing_counts_as_no_other() -> None:
    keys = Keys((OLD,), "here")
    with pytest.raises(SignatureError, match="it is signed as report, not as move"):
        keys.verified("move", keys.sign("report", STATEMENT), "it")


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"signed": 1, "hmac_sha256": "a"}', '{"signed": {}}'])
def test_what_is_no_signature_is_refused(text: str) -> None:
    with pytest.raises(SignatureError, match="carries no signature"):
        Keys((OLD,), "here").verified("report", text, "it")


def test_the_first_signature_makes_a_key_that_its_owner_alone_may_read(key_file: Path) -> None:
    before = os.umask(0)  # the mode may not depend on it
    try:
        text = signature.sign("report", STATEMENT)
    finally:
        os.umask(before)
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(key_file.parent.stat().st_mode) == 0o700
    assert [path.name for path in key_file.parent.iterdir()] == ["gate"]
    assert signature.verified("report", text, "it")["verdict"] == "HOLD"


def test_verifying_makes_no_key(key_file: Path) -> None:
    with pytest.raises(SignatureError, match=rf"there is no key at {key_file}.*TIDEGATE_GATE_KEY"):
        signature.verified("report", Keys((OLD,), "x").sign("report", STATEMENT), "it")
    assert not key_file.exists()


def test_all_who_sign_first_at_once_sign_with_one_key(key_file: Path) -> None:
    made = []
    real = os.link
    with ThreadPoolExecutor(4) as crowd, pytest.MonkeyPatch.context() as patch:
        # Threads share a pid; processes do not.
        patch.setattr(signature.os, "getpid", lambda: made.append(1) or len(made))
        patch.setattr(signature.os, "link", lambda *paths: real(*paths))
        texts = list(crowd.map(lambda _: signature.sign("report", STATEMENT), range(8)))
    assert len({json.loads(text)["signed"]["key"] for text in texts}) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622, 0o644])
def test_a_key_that_others_may_read_or_write_is_refused(key_file: Path, mode: int) -> None:
    signature.sign("report", STATEMENT)
    key_file.chmod(mode)
    with pytest.raises(SignatureError, match=rf"{key_file} is open to others \(mode 0{mode:o}\); chmod 600 it"):
        signature.sign("report", STATEMENT)


@pytest.mark.parametrize(
    ("text", "said"), [("short\n", "a key of 5 characters; expected at least 32"), ("\n", "no key")]
)
def test_what_is_too_short_for_a_key_is_none(key_file: Path, text: str, said: str) -> None:
    signature.write(key_file, [text.strip()]).replace(key_file)
    with pytest.raises(SignatureError, match=f"{key_file} holds {said}"):
        signature.load()


def test_a_key_from_the_environment_needs_no_file(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_GATE_KEY", f"{NEW} {OLD}")
    with pytest.raises(SignatureError, match="TIDEGATE_GATE_KEY and TIDEGATE_GATE_KEY_FILE are both set"):
        signature.load()
    monkeypatch.delenv("TIDEGATE_GATE_KEY_FILE")
    assert signature.load().secrets == (NEW, OLD)
    assert gate_key.main(["rotate"]) == 2
    assert not key_file.exists()


def test_a_rotated_key_signs_no_more_and_still_verifies_until_it_is_forgotten(key_file: Path, capsys) -> None:
    old = signature.sign("report", STATEMENT)
    old_id = json.loads(old)["signed"]["key"]
    assert gate_key.main(["rotate"]) == 0
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    new_id = json.loads(signature.sign("report", STATEMENT))["signed"]["key"]
    assert new_id != old_id
    assert signature.verified("report", old, "it")

    capsys.readouterr()
    assert gate_key.main(["list"]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[:2] for line in shown.splitlines()] == [[new_id, "signs"], [old_id, "verifies"]]
    assert not [secret for secret in signature.load().secrets if secret in shown]

    assert gate_key.main(["forget", new_id]) == 2
    assert gate_key.main(["forget", "0000"]) == 2
    assert gate_key.main(["forget", old_id]) == 0
    with pytest.raises(SignatureError, match=f"signed by the key {old_id}; {key_file} holds {new_id}"):
        signature.verified("report", old, "it")


def test_git_ignores_the_key_of_a_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIDEGATE_GATE_KEY_FILE", raising=False)
    monkeypatch.delenv("TIDEGATE_STATE")
    path = ServerSettings().gate_key_path
    assert path.is_relative_to(ROOT)
    ignored = subprocess.run(["git", "check-ignore", "-q", str(path)], cwd=ROOT, check=False).returncode
    if ignored == 128:
        pytest.skip("not a git clone")
    assert ignored == 0


def test_torchserve_is_not_given_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_GATE_KEY", OLD)
    monkeypatch.setenv("TIDEGATE_GATE_KEY_FILE", "somewhere")
    assert not [name for name in launch.environment(tmp_path, tmp_path) if "GATE_KEY" in name]
