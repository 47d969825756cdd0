"""Keys and signatures of the tests: made from a seed, and signed without the code under test."""

from __future__ import annotations

import json
from base64 import b64encode
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

GATE_SEED, OPERATOR_SEED = b"of-the-tests-alone-and-no-secret", b"the tests' operator and no secret"[:32]
STRANGER_SEED = b"s" * 32


def pem(seed: bytes) -> str:
    """The private key of a seed of 32 bytes, as a key file holds it."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def key_id(seed: bytes) -> str:
    return sha256(Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()).hexdigest()[:16]


def line(role: str, seed: bytes) -> str:
    """The public key of a seed, as the list of trusted keys holds it."""
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return f"{role} ed25519 {b64encode(public).decode()} test"


def signed(seed: bytes, kind: str, statement: dict) -> str:
    """What `signature.sign` returns, signed by the key of a seed whatever its role."""
    body = {**statement, "kind": kind, "key": key_id(seed)}
    message = b"tidegate\0" + json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    proof = b64encode(Ed25519PrivateKey.from_private_bytes(seed).sign(message)).decode()
    return json.dumps({"signed": body, "ed25519": proof}, sort_keys=True)
