"""Sign statements: Ed25519 over canonical JSON. The first signature of a platform creates its keys.

The keys are in serving/deployment/key_pairs.py; serving/deployment/verify_signature.py has what verifies.
"""

from __future__ import annotations

import json
from base64 import b64encode

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from serving.deployment import key_pairs
from serving.deployment.errors import SignatureError
from serving.deployment.key_pairs import GATE, OPERATOR, OPERATOR_KINDS
from serving.deployment.registry import registry_client
from serving.deployment.verify_signature import FORMER_SIGNATURE, SIGNATURE, SIGNED, canonical_json, message, verify

__all__ = ["canonical_json", "sign", "signing_key", "verify"]


def sign(kind: str, statement: dict) -> str:
    """JSON of the statement with its kind and the key's id, and the signature over all of it.

    The first signature of a platform creates its keys. Where something is signed already, a missing key is lost, and a
    second one is made only by command.

    Raises:
        SignatureError: as `signing_key`.
    """
    role, key = signing_key(kind)
    signed = json.loads(canonical_json({**statement, "kind": kind, "key": key_pairs.public_key(role, key).id}))
    return json.dumps({SIGNED: signed, SIGNATURE: b64encode(key.sign(message(signed))).decode()}, sort_keys=True)


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
        f"there is no {roles[0]} key at {key_pairs.key_path(roles[0])} to sign the {kind} with; if it is lost, "
        f"{key_pairs.lost(roles[0])}"
    )


def anything_signed() -> bool:
    """Whether the registry holds a signature of any dataset: then a missing key is lost, not yet to be made."""
    texts = (text for model in registry_client().search_registered_models() for text in model.tags.values())
    return any(f'"{name}"' in text for text in texts for name in (SIGNATURE, FORMER_SIGNATURE))
