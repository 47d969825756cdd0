"""The command that manages the keys: what each action prints, and what stays valid after a rotation."""

from __future__ import annotations

from pathlib import Path

import pytest
from signing import GATE_SEED, key_id, line

from serving import signing_keys
from serving.deployment import signature
from serving.deployment.errors import SignatureError

REPORT = "gate report"


def test_keys_are_created_only_where_there_are_none(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert signing_keys.main(["list"]) == 2
    assert "there are no trusted keys at" in capsys.readouterr().err
    assert signing_keys.main(["rotate", "gate"]) == 2
    assert "there is no gate key at" in capsys.readouterr().err
    assert signing_keys.main(["create"]) == 0
    assert capsys.readouterr().out.endswith((keys / "trusted").read_text(encoding="utf-8"))  # for other machines
    secret = (keys / "gate.pem").read_bytes()
    assert signing_keys.main(["create"]) == 2
    assert "there is a key already" in capsys.readouterr().err
    assert (keys / "gate.pem").read_bytes() == secret


def test_a_rotated_key_no_longer_signs_and_verifies_until_it_is_forgotten(
    keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    signing_keys.main(["create"])
    old = signature.sign(REPORT, {})
    old_id = signature.verify(REPORT, old, "it")["key"]
    assert signing_keys.main(["rotate", "gate"]) == 0
    assert (keys / "gate.pem").stat().st_mode & 0o777 == 0o600
    new_id = signature.verify(REPORT, signature.sign(REPORT, {}), "it")["key"]
    assert new_id != old_id
    assert signature.verify(REPORT, old, "it")

    capsys.readouterr()
    assert signing_keys.main(["list"]) == 0
    shown = [text.split()[:2] for text in capsys.readouterr().out.splitlines()]
    assert [old_id, "verifies"] in shown
    assert [new_id, "signs"] in shown

    assert signing_keys.main(["forget", new_id]) == 2
    assert f"the key {new_id} signs here; rotate it first" in capsys.readouterr().err
    assert signing_keys.main(["forget", "0000"]) == 2
    assert signing_keys.main(["forget", old_id]) == 0
    assert "--override VERSION --reason ...` accepts the log; then run the gate again" in capsys.readouterr().out
    with pytest.raises(SignatureError, match=f"it was signed by the key {old_id}"):
        signature.verify(REPORT, old, "it")


def test_the_line_of_another_machine_is_trusted(keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert signing_keys.main(["create", "operator"]) == 0
    assert signing_keys.main(["trust", line("gate", GATE_SEED)]) == 0
    assert f"the gate key {key_id(GATE_SEED)} is trusted here" in capsys.readouterr().out
    assert signing_keys.main(["trust", "gate ed25519 short name"]) == 2
    assert "expected `<role> ed25519 <base64> <name>`" in capsys.readouterr().err
