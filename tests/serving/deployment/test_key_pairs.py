"""A private key is its owner's alone, whole and of Ed25519; the list of trusted keys names each key once."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from signing import GATE_SEED, OPERATOR_SEED, STRANGER_SEED, key_id, line, pem

from config.paths import ROOT
from serving.deployment import key_pairs
from serving.deployment.errors import SignatureError
from serving.deployment.key_pairs import GATE, OPERATOR
from serving.settings import ServerSettings
from serving.torchserve import launch


def write(path: Path, content: bytes | str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def test_private_keys_are_for_their_owner_only_whatever_the_umask(keys: Path) -> None:
    before = os.umask(0)
    try:
        key_pairs.create()
    finally:
        os.umask(before)
    assert {path.name: oct(stat.S_IMODE(path.stat().st_mode)) for path in keys.iterdir() if path.suffix != ".lock"} == {
        "gate.pem": "0o600",
        "operator.pem": "0o600",
        "trusted": "0o644",
    }
    assert stat.S_IMODE(keys.stat().st_mode) == 0o700


def test_a_second_creation_replaces_nothing(keys: Path) -> None:
    first = key_pairs.create([GATE])
    assert [key.role for key in first] == [GATE]
    content = (keys / "gate.pem").read_bytes()
    assert [key.role for key in key_pairs.create()] == [OPERATOR]
    assert (keys / "gate.pem").read_bytes() == content
    assert [key.role for key in key_pairs.trusted().keys.values()] == [GATE, OPERATOR]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622, 0o644])
def test_a_private_key_that_other_users_may_read_or_write_is_refused(keys: Path, mode: int) -> None:
    path = write(keys / "gate.pem", pem(GATE_SEED), mode)
    with pytest.raises(SignatureError, match=rf"{path.name} is open to other users \(mode 0{mode:o}\); chmod 600 it"):
        key_pairs.private_key(GATE)


P256 = generate_private_key(SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"",
            "gate.pem is empty; remove it, then restore it from a backup .*create gate`: what the lost key signed stays",
        ),
        (b"\n", "gate.pem is empty"),
        (b"\0" * 64, "gate.pem is damaged: it is not text; remove it"),
        (b"\xff" * 64, "gate.pem is damaged: it is not text; remove it"),
        (
            pem(GATE_SEED)[:60].encode(),
            "gate.pem holds no whole Ed25519 private key in PEM form; remove it, then restore",
        ),
        (pem(GATE_SEED)[:-12].encode(), "gate.pem holds no whole Ed25519 private key"),
        (P256, "gate.pem holds no whole Ed25519 private key"),
        (b"k" * 64 + b"\n", "gate.pem holds no whole Ed25519 private key"),  # of the former shared keys
    ],
)
def test_a_damaged_private_key_is_refused_with_the_way_to_recover(keys: Path, content: bytes, message: str) -> None:
    path = write(keys / "gate.pem", content)
    for act in (lambda: key_pairs.private_key(GATE), lambda: key_pairs.rotate(GATE), key_pairs.trusted):
        with pytest.raises(SignatureError, match=message) as error:
            act()
        assert len(str(error.value).splitlines()) == 1
    assert path.read_bytes() == content
    assert not key_pairs.may_create()


def test_a_folder_in_place_of_a_key_is_refused(keys: Path) -> None:
    (keys / "gate.pem").mkdir(parents=True)
    with pytest.raises(SignatureError, match=r"gate.pem cannot be read \(Is a directory\); remove it, then restore"):
        key_pairs.private_key(GATE)


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        ("", 0o644, "trusted holds no trusted key; restore it from a backup or copy it"),
        (
            line(GATE, GATE_SEED)[:-7] + "\n",
            0o644,
            r"trusted holds 'gate ed25519 .*'; expected `<role> ed25519 <base64> <n",
        ),
        (line(GATE, GATE_SEED).replace("ed25519", "rsa"), 0o644, "expected `<role> ed25519"),
        (line("root", GATE_SEED), 0o644, "with a role of gate or operator"),
        (f"{line(GATE, GATE_SEED)}\n{line(OPERATOR, GATE_SEED)}\n", 0o644, "trusted names a key twice"),
        (b"\xff", 0o644, "trusted cannot be read"),
        (
            line(GATE, GATE_SEED),
            0o666,
            r"trusted can be changed by other users \(owner \d+, mode 0666\); check the keys in trusted, then own and chmod 644",
        ),
    ],
)
def test_a_damaged_list_of_trusted_keys_is_refused(keys: Path, content: str, mode: int, message: str) -> None:
    write(keys / "trusted", content, mode)
    with pytest.raises(SignatureError, match=message):
        key_pairs.trusted()


def test_a_list_in_a_folder_that_other_users_may_write_is_refused(keys: Path) -> None:
    write(keys / "trusted", line(GATE, GATE_SEED))
    keys.chmod(0o777)
    with pytest.raises(SignatureError, match=r"/keys can be changed by other users \(owner \d+, mode 0777\)"):
        key_pairs.trusted()
    keys.chmod(0o1777)  # like /tmp: others may add files, not replace this one
    assert key_pairs.trusted()


def test_a_list_that_another_user_owns_is_refused(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(keys / "trusted", line(GATE, GATE_SEED))
    if os.geteuid() == 0:
        for place in (keys, path):
            os.chown(place, 1000, -1)
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner)
    assert key_pairs.trusted()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(SignatureError, match=f"can be changed by other users .owner {owner}, mode"):
        key_pairs.trusted()


def test_text_and_file_of_one_key_are_not_both_taken(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_GATE_KEY", pem(GATE_SEED))
    monkeypatch.setenv("TIDEGATE_GATE_KEY_FILE", "elsewhere")
    with pytest.raises(SignatureError, match="TIDEGATE_GATE_KEY and TIDEGATE_GATE_KEY_FILE are both set; set one"):
        key_pairs.private_key(GATE)
    monkeypatch.setenv("TIDEGATE_TRUSTED_KEYS", line(GATE, GATE_SEED))
    monkeypatch.setenv("TIDEGATE_TRUSTED_KEYS_FILE", "elsewhere")
    with pytest.raises(SignatureError, match="TIDEGATE_TRUSTED_KEYS and TIDEGATE_TRUSTED_KEYS_FILE are both set"):
        key_pairs.trusted()


def test_keys_of_variables_need_no_file_and_are_changed_where_they_are_set(
    keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_GATE_KEY", pem(GATE_SEED))
    assert list(key_pairs.trusted().keys) == [key_id(GATE_SEED)]
    with pytest.raises(SignatureError, match="TIDEGATE_GATE_KEY holds the key"):
        key_pairs.rotate(GATE)
    assert not (keys / "gate.pem").exists()
    monkeypatch.setenv("TIDEGATE_TRUSTED_KEYS", f"{line(GATE, GATE_SEED)}\n{line(GATE, STRANGER_SEED)}")
    with pytest.raises(SignatureError, match="TIDEGATE_TRUSTED_KEYS holds the trusted keys; change it where it is set"):
        key_pairs.forget(key_id(STRANGER_SEED))


def test_a_gate_of_another_machine_is_trusted_by_its_line(keys: Path) -> None:
    key_pairs.create([OPERATOR])
    assert key_pairs.trust(line(GATE, GATE_SEED)).id == key_id(GATE_SEED)
    assert key_pairs.trusted().keys[key_id(GATE_SEED)].may_sign("gate report")
    assert key_pairs.trust(line(GATE, GATE_SEED))  # again: still one line
    assert len((keys / "trusted").read_text(encoding="utf-8").splitlines()) == 2
    key_pairs.forget(key_id(GATE_SEED))
    assert [key.role for key in key_pairs.trusted().keys.values()] == [OPERATOR]


def test_a_list_in_another_file_keeps_its_comments(keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "mounted", f"# production\n{line(GATE, GATE_SEED)}\n{line(GATE, STRANGER_SEED)}\n")
    monkeypatch.setenv("TIDEGATE_TRUSTED_KEYS_FILE", str(path))
    key_pairs.trust(line(OPERATOR, OPERATOR_SEED))
    key_pairs.forget(key_id(STRANGER_SEED))
    assert (
        path.read_text(encoding="utf-8") == f"# production\n{line(GATE, GATE_SEED)}\n{line(OPERATOR, OPERATOR_SEED)}\n"
    )


def test_git_ignores_the_keys_of_a_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIDEGATE_STATE")
    path = ServerSettings().keys / "gate.pem"
    assert path.is_relative_to(ROOT)
    ignored = subprocess.run(["git", "check-ignore", "-q", str(path)], cwd=ROOT, check=False).returncode
    if ignored == 128:
        pytest.skip("not a git clone")
    assert ignored == 0


def test_torchserve_gets_no_private_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"TIDEGATE_{role}_KEY{suffix}" for role in ("GATE", "OPERATOR") for suffix in ("", "_FILE")]
    for name in names:
        monkeypatch.setenv(name, "a secret")
    assert not set(names) & set(launch.environment(tmp_path, tmp_path))
