"""Verify signed statements: Ed25519 over canonical JSON.

A statement has a kind ("gate report", "rollback", "archive"), and the role of a key says which kinds it may sign. Who verifies
needs the trusted public keys (serving/deployment/key_pairs.py), and neither a private key nor a registry.
"""

from __future__ import annotations

import json
from base64 import b64decode

from cryptography.exceptions import InvalidSignature

from serving.deployment import key_pairs
from serving.deployment.errors import SignatureError, UntrustedKeyError

SIGNED, SIGNATURE, FORMER_SIGNATURE = "signed", "ed25519", "hmac_sha256"


def verify(kind: str | tuple[str, ...], text: str, subject: str) -> dict:
    """The statement that was signed, with `kind` and `key`; `subject` names the text in errors.

    Raises:
        SignatureError: it is not signed, its key is not trusted or may not sign this, it was changed, or is of another
            kind.
    """
    kinds = (kind,) if isinstance(kind, str) else kind
    signed, signature = _parse(text, subject)
    known, name = key_pairs.trusted(), str(signed.get("key"))
    key = known.keys.get(name)
    if key is None:
        raise UntrustedKeyError(
            f"{subject} was signed by the key {name}; {known.origin} trusts {', '.join(known.keys)}"
        )
    try:
        key.verifier.verify(signature, message(signed))
    except InvalidSignature:
        raise SignatureError(f"{subject} was changed after it was signed (the signature differs)") from None
    if signed.get("kind") not in kinds:
        raise SignatureError(f"{subject} is signed as {signed.get('kind')}, not as {' or '.join(kinds)}")
    if not key.may_sign(signed["kind"]):
        raise SignatureError(
            f"{subject} was signed by the {key.role} key {name}, which may not sign a {signed['kind']}"
        )
    return signed


def canonical_json(value: object) -> bytes:
    """JSON with one form per value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()


def message(signed: dict) -> bytes:
    """The bytes that a signature is over."""
    return b"tidegate\0" + canonical_json(signed)


def _parse(text: str, subject: str) -> tuple[dict, bytes]:
    try:
        envelope = json.loads(text)
        if is_former := FORMER_SIGNATURE in envelope:
            signed, signature = {}, b""
        else:
            signed, signature = dict(envelope[SIGNED]), b64decode(envelope[SIGNATURE], validate=True)
    except (ValueError, TypeError, KeyError):
        raise SignatureError(f"{subject} carries no signature") from None
    if is_former:
        raise SignatureError(
            f"{subject} was signed with the shared key of an earlier Tidegate, which proves nothing any more; run "
            f"`{key_pairs.COMMAND} create` if there is no key yet, then the gate or an override"
        )
    return signed, signature
