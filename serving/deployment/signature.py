"""Sign gate reports and alias changes with the gate's keys: HMAC-SHA256 over canonical JSON.

The keys are read from `TIDEGATE_GATE_KEY`, or from a file that only its owner may read: `TIDEGATE_GATE_KEY_FILE`, by
default state/gate.key. The first key signs and each one verifies, so that a key can be rotated.
"""

from __future__ import annotations

import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from filelock import FileLock

from data import files
from serving import settings as environment
from serving.deployment.registry import RegistryError
from serving.key_file import read_key_file
from serving.settings import variable

MIN_KEY_CHARACTERS, NEW_KEY_BYTES = 32, 32
RECOVERY = (
    "restore it from a backup (docs/runbook.md), or run `python -m serving.gate_key create`: nothing that the lost key "
    "signed is accepted then, so every version needs the gate or an override again"
)


class SignatureError(RegistryError):
    """Nothing can be signed or verified, or a signature is not of a known key; the text says why."""


@dataclass(frozen=True)
class GateKeys:
    """Secrets that verify signatures; the first one signs."""

    secrets: tuple[str, ...]
    origin: str  # names their place in errors

    def sign(self, kind: str, statement: dict) -> str:
        """JSON of the statement with its kind and the key's id, and the signature over all of it."""
        signed = {**statement, "kind": kind, "key": key_id(self.secrets[0])}
        return json.dumps({"signed": signed, "hmac_sha256": _mac(self.secrets[0], signed)}, sort_keys=True)

    def verify(self, kind: str, text: str, subject: str) -> dict:
        """The statement that was signed, with `kind` and `key`; `subject` names the text in errors.

        Raises:
            SignatureError: it is not signed, was signed by an unknown key, was changed, or is of another kind.
        """
        try:
            envelope = json.loads(text)
            signed, signature = dict(envelope["signed"]), str(envelope["hmac_sha256"])
        except (ValueError, TypeError, KeyError):
            raise SignatureError(f"{subject} carries no signature") from None
        known = {key_id(secret): secret for secret in self.secrets}
        name = str(signed.get("key"))
        if name not in known:
            raise SignatureError(f"{subject} was signed by the key {name}; {self.origin} holds {', '.join(known)}")
        if not hmac.compare_digest(_mac(known[name], signed).encode(), signature.encode()):
            raise SignatureError(f"{subject} was changed after it was signed (the signature differs)")
        if signed.get("kind") != kind:
            raise SignatureError(f"{subject} is signed as {signed.get('kind')}, not as {kind}")
        return signed


def load_keys(create: bool = False) -> GateKeys:
    """This environment's keys; `create` makes a key file if there is none and no variable holds a key.

    A caller sets `create` only where nothing is signed yet: a second key would make all earlier signatures invalid.

    Raises:
        SignatureError: there is no key, it is damaged or too short, or other users may read its file.
    """
    settings = environment.load()
    from_variable = settings.gate_key.get_secret_value()
    if from_variable and settings.gate_key_file:
        raise SignatureError(f"{variable('gate_key')} and {variable('gate_key_file')} are both set; set one")
    if from_variable:
        return _parse_keys(from_variable, variable("gate_key"))
    path = settings.gate_key_path
    if create and not path.exists():
        with _lock(path):
            if not path.exists():  # of several processes that start at once, the first one creates it
                _write_keys(path, [secrets.token_hex(NEW_KEY_BYTES)])
    if not path.exists():
        raise SignatureError(
            f"there is no key at {path}, so the gate's signatures cannot be verified; copy the gate's key there, or set "
            f"{variable('gate_key')}; if it is lost, {RECOVERY}"
        )
    return _parse_keys(read_key_file(path, f"remove it, then {RECOVERY}", SignatureError), str(path))


def create_key() -> tuple[str, Path]:
    """Make the key file; the key's id and the file. Raises SignatureError if it exists, or a variable holds the keys."""
    path = _editable_key_file()
    if path.exists():
        raise SignatureError(f"{path} exists; `python -m serving.gate_key rotate` puts a new key before it")
    return key_id(load_keys(create=True).secrets[0]), path


def rotate_key() -> tuple[str, Path]:
    """Put a new key first; its id and the key file. Raises SignatureError if a variable holds the keys."""
    path, new = _editable_key_file(), secrets.token_hex(NEW_KEY_BYTES)
    with _lock(path):
        _write_keys(path, [new, *load_keys().secrets])
    return key_id(new), path


def forget_key(name: str) -> None:
    """Remove a key; what it signed is no longer valid.

    Raises:
        SignatureError: there is no such key, it is the one that signs, or a variable holds the keys.
    """
    path = _editable_key_file()
    with _lock(path):
        keys = {key_id(secret): secret for secret in load_keys().secrets}
        if name not in keys:
            raise SignatureError(f"{path} holds no key {name}; it holds {', '.join(keys)}")
        if name == next(iter(keys)):
            raise SignatureError(f"the key {name} signs; rotate first")
        del keys[name]
        _write_keys(path, list(keys.values()))


def key_id(secret: str) -> str:
    """The name of a key in signatures; a hash that reveals nothing of its 256 random bits."""
    return sha256(f"tidegate gate key: {secret}".encode()).hexdigest()[:8]


def canonical_json(value: object) -> bytes:
    """JSON with one form per value: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()


def _editable_key_file() -> Path:
    if environment.load().gate_key.get_secret_value():
        raise SignatureError(
            f"{variable('gate_key')} holds the keys and the first one signs; put a new key and a space before it"
        )
    return environment.load().gate_key_path


def _lock(path: Path) -> FileLock:
    """Lets one process at a time write the key file."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return FileLock(path.with_name(f"{path.name}.lock"))


def _write_keys(path: Path, keys: Sequence[str]) -> None:
    files.write_bytes(path, "".join(f"{key}\n" for key in keys).encode(), mode=0o600)


def _parse_keys(text: str, origin: str) -> GateKeys:
    keys = tuple(text.split())
    if not keys:
        raise SignatureError(f"{origin} holds no key")
    if (shortest := min(map(len, keys))) < MIN_KEY_CHARACTERS:
        raise SignatureError(f"{origin} holds a key of {shortest} characters; expected at least {MIN_KEY_CHARACTERS}")
    return GateKeys(keys, origin)


def _mac(secret: str, signed: dict) -> str:
    return hmac.new(secret.encode(), canonical_json(signed), sha256).hexdigest()
