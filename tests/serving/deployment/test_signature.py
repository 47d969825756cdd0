"""Only a trusted key of the right role makes a valid signature, and who verifies needs public keys alone."""

from __future__ import annotations

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from signing import GATE_SEED, OPERATOR_SEED, STRANGER_SEED, key_id, line, pem, signed

from serving.deployment import key_pairs, signature
from serving.deployment.errors import SignatureError
from serving.deployment.key_pairs import GATE, OPERATOR, OPERATOR_KINDS

STATEMENT = {"verdict": "HOLD", "version": "3"}
REPORT, ROLLBACK = "gate report", "rollback"


@pytest.fixture
def serving_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with the public keys of the tests' gate and operator, and no private key."""
    for role in ("GATE", "OPERATOR"):
        monkeypatch.delenv(f"TIDEGATE_{role}_KEY")
    lines = f"# of the tests\n{line('gate', GATE_SEED)}\n\n{line('operator', OPERATOR_SEED)}\n"
    monkeypatch.setenv("TIDEGATE_TRUSTED_KEYS", lines)


@pytest.fixture
def empty(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The key folder of a platform with an empty registry and no key."""
    for role in ("GATE", "OPERATOR"):
        monkeypatch.delenv(f"TIDEGATE_{role}_KEY")
    return tracked / "out/state/keys"


@pytest.mark.parametrize(
    ("kind", "seed"),
    [(REPORT, GATE_SEED), ("promotion", GATE_SEED), ("a new kind", GATE_SEED)]
    + [(kind, OPERATOR_SEED) for kind in sorted(OPERATOR_KINDS)],
)
def test_the_role_that_may_sign_a_kind_signs_it(kind: str, seed: bytes) -> None:
    text = signature.sign(kind, STATEMENT)
    assert text == signed(seed, kind, STATEMENT)
    assert signature.verify(kind, text, "it") == STATEMENT | {"kind": kind, "key": key_id(seed)}


def test_a_gate_without_an_operator_key_signs_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIDEGATE_OPERATOR_KEY")
    assert signature.sign(ROLLBACK, STATEMENT) == signed(GATE_SEED, ROLLBACK, STATEMENT)
    assert signature.verify(ROLLBACK, signature.sign(ROLLBACK, STATEMENT), "it")


def test_a_host_with_public_keys_alone_verifies_everything(serving_host: None) -> None:
    assert signature.verify(REPORT, signed(GATE_SEED, REPORT, STATEMENT), "it")["verdict"] == "HOLD"
    assert signature.verify(ROLLBACK, signed(OPERATOR_SEED, ROLLBACK, STATEMENT), "it")
    assert signature.verify((REPORT, ROLLBACK), signed(GATE_SEED, ROLLBACK, STATEMENT), "it")["kind"] == ROLLBACK


def test_a_host_with_public_keys_alone_signs_nothing(serving_host: None, tracked: Path) -> None:
    for kind, role in ((REPORT, GATE), (ROLLBACK, OPERATOR)):
        with pytest.raises(SignatureError, match=f"there is no {role} key at .*/{role}.pem to sign the {kind} with"):
            signature.sign(kind, STATEMENT)
    assert not list(tracked.rglob("*.pem"))


def test_a_report_signed_by_an_operator_is_refused(serving_host: None, monkeypatch: pytest.MonkeyPatch) -> None:
    text = signed(OPERATOR_SEED, REPORT, STATEMENT)
    with pytest.raises(
        SignatureError, match=r"^it was signed by the operator key .*, which may not sign a gate report"
    ):
        signature.verify(REPORT, text, "it")
    monkeypatch.setenv("TIDEGATE_OPERATOR_KEY", pem(OPERATOR_SEED))
    with pytest.raises(SignatureError, match="there is no gate key"):
        signature.sign(REPORT, STATEMENT)


def test_a_report_signed_by_a_hosts_own_gate_key_is_refused(
    serving_host: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEGATE_GATE_KEY", pem(STRANGER_SEED))
    with pytest.raises(
        SignatureError, match=f"TIDEGATE_TRUSTED_KEYS does not trust the gate key {key_id(STRANGER_SEED)}"
    ):
        signature.sign(REPORT, STATEMENT)
    with pytest.raises(
        SignatureError, match=f"it was signed by the key {key_id(STRANGER_SEED)}; TIDEGATE_TRUSTED_KEYS"
    ):
        signature.verify(REPORT, signed(STRANGER_SEED, REPORT, STATEMENT), "it")


def test_an_operator_key_does_not_sign_as_the_gate(serving_host: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_GATE_KEY", pem(OPERATOR_SEED))
    with pytest.raises(SignatureError, match="does not trust the gate key"):
        signature.sign(REPORT, STATEMENT)


@pytest.mark.parametrize("changed", [{"verdict": "PROMOTE"}, {"version": "4"}, {"more": 1}, {"kind": ROLLBACK}])
def test_a_statement_that_was_changed_after_signing_is_refused(changed: dict) -> None:
    envelope = json.loads(signature.sign(REPORT, STATEMENT))
    envelope["signed"] |= changed
    with pytest.raises(SignatureError, match=r"^it was changed after it was signed"):
        signature.verify(changed.get("kind", REPORT), json.dumps(envelope), "it")


def test_a_signature_of_another_key_is_refused_even_if_it_names_a_trusted_key() -> None:
    envelope = json.loads(signed(STRANGER_SEED, REPORT, STATEMENT))
    envelope["signed"]["key"] = key_id(GATE_SEED)
    with pytest.raises(SignatureError, match="changed after it was signed"):
        signature.verify(REPORT, json.dumps(envelope), "it")


def test_a_statement_signed_as_one_kind_is_refused_as_another() -> None:
    text = signature.sign(REPORT, STATEMENT)
    with pytest.raises(SignatureError, match="it is signed as gate report, not as rollback or override"):
        signature.verify(("rollback", "override"), text, "it")


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"signed": 1, "ed25519": "aaaa"}', '{"signed": {}}'])
def test_text_without_a_signature_is_refused(text: str) -> None:
    with pytest.raises(SignatureError, match="it carries no signature"):
        signature.verify(REPORT, text, "it")


def test_a_signature_with_the_shared_key_of_earlier_versions_is_refused_with_the_way_on() -> None:
    old = json.dumps({"signed": {**STATEMENT, "kind": REPORT, "key": "12345678"}, "hmac_sha256": "ab" * 32})
    with pytest.raises(
        SignatureError, match=r"shared key of an earlier .*signing_keys create.*gate or an override"
    ) as no:
        signature.verify(REPORT, old, "it")
    assert len(str(no.value).splitlines()) == 1


# --- keys of a new platform


def test_the_first_signature_creates_both_keys_and_trusts_them(empty: Path) -> None:
    text = signature.sign(ROLLBACK, STATEMENT)
    assert {path.name for path in empty.iterdir()} - {"keys.lock"} == {"gate.pem", "operator.pem", "trusted"}
    assert re.findall(r"^(\w+) ed25519 \S{44} \S+$", (empty / "trusted").read_text(encoding="utf-8"), re.MULTILINE) == [
        GATE,
        OPERATOR,
    ]
    for role in (GATE, OPERATOR):
        (empty / f"{role}.pem").unlink()
    assert signature.verify(ROLLBACK, text, "it")  # by the list alone


def test_verifying_creates_no_key(empty: Path) -> None:
    with pytest.raises(
        SignatureError, match=rf"there are no trusted keys at {key_pairs.key_path(GATE).parent}/trusted"
    ):
        signature.verify(REPORT, signed(GATE_SEED, REPORT, STATEMENT), "it")
    assert not empty.exists()


def test_concurrent_first_signatures_use_one_key(empty: Path) -> None:
    with ThreadPoolExecutor(4) as crowd:
        texts = list(crowd.map(lambda _: signature.sign(REPORT, STATEMENT), range(8)))
    assert len({json.loads(text)["signed"]["key"] for text in texts}) == 1


@pytest.mark.parametrize("name", ["ed25519", "hmac_sha256"])
def test_a_lost_key_is_not_replaced_where_something_is_signed(empty: Path, name: str) -> None:
    from serving.deployment.registry import registry_client

    registry_client().create_registered_model("other", tags={"any": json.dumps({"signed": {}, name: "x"})})
    with pytest.raises(
        SignatureError, match=r"there is no gate key at .*if it is lost, restore it from a backup.*create"
    ):
        signature.sign(REPORT, STATEMENT)
    assert not empty.exists()


def test_a_lost_key_is_not_replaced_where_keys_are_trusted(empty: Path) -> None:
    signature.sign(REPORT, STATEMENT)
    for role in (GATE, OPERATOR):
        (empty / f"{role}.pem").unlink()
    with pytest.raises(SignatureError, match="there is no gate key"):
        signature.sign(REPORT, STATEMENT)


def test_a_lost_list_leaves_the_own_keys_trusted(empty: Path) -> None:
    text = signature.sign(REPORT, STATEMENT)
    (empty / "trusted").unlink()
    assert signature.verify(REPORT, text, "it")
    shutil.rmtree(empty)
    with pytest.raises(SignatureError, match="there are no trusted keys"):
        signature.verify(REPORT, text, "it")
