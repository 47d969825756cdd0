"""Sign statements and verify them: Ed25519 over canonical JSON.

A statement has a kind ("gate report", "rollback", "archive"), and the role of a key says which kinds it may sign. The keys are
in serving/deployment/key_pairs.py. Who verifies needs public keys alone.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from serving.deployment import key_pairs
from serving.deployment.errors import SignatureError
from serving.deployment.key_pairs import GATE, OPERATOR, OPERATOR_KINDS, PublicKey

SIGNED, SIGNATURE, FORMER_SIGNATURE = "signed", "ed25519", "hmac_sha256"


def sign(kind: str, statement: dict) -> str:
    """JSON of the statement with its kind and the key's id, and the signature over all of it.

    The first signature of a platform creates its keys. Where something is signed already, a missing key is lost, and a
    second one is made only by command.

    Raises:
        SignatureError: as `signing_key`.
    """
    role, key = signing_key(kind)
    signed = json.loads(canonical_json({**statement, "kind": kind, "key": key_pairs.public_key(role, key).id}))
    return json.dumps({SIGNED: signed, SIGNATURE: b64encode(key.sign(_message(signed))).decode()}, sort_keys=True)


def signing_key(kind: str) -> tuple[str, Ed25519PrivateKey]:
    """The role and the private key that sign a kind: the operator's where it may, else the gate's.

    Raises:
        SignatureError: this machine has no such key, it is damaged, or it is not among the trusted ones.
    """
    if key_pairs.may_create() and not anything_signed():
        key_pairs.create()
    roles = [OPERATOR, GATE] if kind in OPERATOR_KINDS else [GATE]
    for role in roles:
        if key := key_pairs.private_key(role):
            public, known = key_pairs.public_key(role, key), key_pairs.trusted()
            if (listed := known.keys.get(public.id)) is None or listed.role != role:
                raise SignatureError(
                    f"{known.origin} does not trust the {role} key {public.id} of this machine; "
                    f"`{key_pairs.COMMAND} trust '{public}'` adds it"
                )
            return role, key
    raise SignatureError(
        f"there is no {roles[0]} key at {key_pairs.key_path(roles[0])} to sign a {kind} with; if it is lost, "
        f"{key_pairs.lost(roles[0])}"
    )


def verify(kind: str | tuple[str, ...], text: str, subject: str) -> dict:
    """The statement that was signed, with `kind` and `key`; `subject` names the text in errors.

    Raises:
        SignatureError: it is not signed, its key is not trusted or may not sign this, it was changed, or is of another
            kind.
    """
    kinds = (kind,) if isinstance(kind, str) else kind
    signed, signature = _parse(text, subject)
    known, name = key_pairs.trusted(), str(signed.get("key"))
    key: PublicKey | None = known.keys.get(name)
    if key is None:
        raise SignatureError(f"{subject} was signed by the key {name}; {known.origin} trusts {', '.join(known.keys)}")
    try:
        key.verifier.verify(signature, _message(signed))
    except InvalidSignature:
        raise SignatureError(f"{subject} was changed after it was signed (the signature differs)") from None
    if signed.get("kind") not in kinds:
        raise SignatureError(f"{subject} is signed as {signed.get('kind')}, not as {' or '.join(kinds)}")
    if not key.may_sign(signed["kind"]):
        raise SignatureError(
            f"{subject} was signed by the {key.role} key {name}, which may not sign a {signed['kind']}"
        )
    return signed


def anything_signed() -> bool:
    """Whether the registry holds a signature of any dataset: then a missing key is lost, not yet to be made."""
    from serving.deployment.registry import registry_client  # a host that only serves has no registry

    texts = (text for model in registry_client().search_registered_models() for text in model.tags.values())
    return any(f'"{name}"' in text for text in texts for name in (SIGNATURE, FORMER_SIGNATURE))


def canonical_json(value: object) -> bytes:
    """JSON with one form per value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()


def _message(signed: dict) -> bytes:
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
