"""Signatures that only a holder of the gate's key can make: HMAC-SHA256 over canonical JSON.

A key is 32 or more characters without a space: `TIDEGATE_GATE_KEY`, or a file that its owner alone may read
(`TIDEGATE_GATE_KEY_FILE`; else state/gate.key, which git ignores), made at the first signature. Where several stand there,
the first signs and every one verifies, so that a key can be rotated. Who can verify can sign, too.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from serving import settings as environment
from serving.deployment.model_versions import RegistryError
from serving.settings import variable

LEAST_CHARACTERS = 32
SECRET_BYTES = 32
OTHERS = 0o077  # every right of whoever is not the owner


class SignatureError(RegistryError):
    """Nothing can be signed or verified, or a signature is not of a key of ours; the text says why."""


@dataclass(frozen=True)
class Keys:
    """Secrets that verify, of which the first signs; `origin` says in errors where they stand."""

    secrets: tuple[str, ...]
    origin: str

    def sign(self, kind: str, statement: dict) -> str:
        """The statement with its kind and the key's id, and the signature of all of it, as JSON."""
        signed = {**statement, "kind": kind, "key": key_id(self.secrets[0])}
        return json.dumps({"signed": signed, "hmac_sha256": _mac(self.secrets[0], signed)}, sort_keys=True)

    def verified(self, kind: str, text: str, whose: str) -> dict:
        """The statement that `sign` was given.

        Raises:
            SignatureError: it is not signed, or by no key of ours, or was changed since, or is of another kind.
        """
        signed, signature = _opened(text, whose)
        known = {key_id(secret): secret for secret in self.secrets}
        name = str(signed.get("key"))
        if name not in known:
            raise SignatureError(f"{whose} was signed by the key {name}; {self.origin} holds {', '.join(known)}")
        if not hmac.compare_digest(_mac(known[name], signed).encode(), signature.encode()):
            raise SignatureError(f"{whose} was changed after it was signed (the signature differs)")
        if signed.get("kind") != kind:
            raise SignatureError(f"{whose} is signed as {signed.get('kind')}, not as {kind}")
        return signed


def sign(kind: str, statement: dict) -> str:
    """`Keys.sign` with this environment's keys, made where there are none."""
    return load(making=True).sign(kind, statement)


def verified(kind: str, text: str, whose: str) -> dict:
    """`Keys.verified` with this environment's keys."""
    return load().verified(kind, text, whose)


def load(making: bool = False) -> Keys:
    """This environment's keys.

    Args:
        making: whether to make the file, where none is and no variable holds a key.

    Raises:
        SignatureError: there is none, others may read it, or it is too short.
    """
    settings = environment.load()
    stated = settings.gate_key.get_secret_value()
    if stated and settings.gate_key_file:
        raise SignatureError(f"{variable('gate_key')} and {variable('gate_key_file')} are both set; set one")
    if stated:
        return Keys(_checked(stated, variable("gate_key")), variable("gate_key"))
    path = settings.gate_key_path
    if making and not path.exists():
        _make(path)
    return Keys(_checked(_read(path), str(path)), str(path))


def new_secret() -> str:
    return secrets.token_hex(SECRET_BYTES)


def key_id(secret: str) -> str:
    """Names a key in signatures; a hash of 256 random bits tells nothing of them."""
    return sha256(f"tidegate gate key: {secret}".encode()).hexdigest()[:8]


def canonical(value: object) -> bytes:
    """JSON of which there is one for each value."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()


def write(path: Path, lines: tuple[str, ...] | list[str]) -> Path:
    """A whole file beside `path`, readable by its owner alone, to be moved there."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)  # or one of a process that was killed would keep its mode
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write("".join(f"{line}\n" for line in lines))
        file.flush()
        os.fsync(file.fileno())
    return partial


def _make(path: Path) -> None:
    partial = write(path, [new_secret()])
    try:
        os.link(partial, path)  # of several processes that start at once, one wins, with a whole file
    except FileExistsError:
        pass
    finally:
        partial.unlink()


def _read(path: Path) -> str:
    try:
        with path.open() as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            text = file.read()
    except FileNotFoundError:
        missing = f"there is no key at {path}, so what the gate signed cannot be verified"
        raise SignatureError(f"{missing}; bring the gate's key there, or set {variable('gate_key')}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SignatureError(f"the gate's key at {path} cannot be read: {error}") from None
    if mode & OTHERS:
        raise SignatureError(
            f"{path} is open to others (mode {mode:04o}); chmod 600 it, and rotate the key if one read it"
        )
    return text


def _checked(text: str, origin: str) -> tuple[str, ...]:
    found = tuple(text.split())
    if not found:
        raise SignatureError(f"{origin} holds no key")
    if shortest := min((len(secret) for secret in found if len(secret) < LEAST_CHARACTERS), default=0):
        raise SignatureError(f"{origin} holds a key of {shortest} characters; expected at least {LEAST_CHARACTERS}")
    return found


def _opened(text: str, whose: str) -> tuple[dict, str]:
    try:
        envelope = json.loads(text)
        signed, signature = envelope["signed"], envelope["hmac_sha256"]
    except (ValueError, TypeError, KeyError):
        raise SignatureError(f"{whose} carries no signature") from None
    if not isinstance(signed, dict) or not isinstance(signature, str):
        raise SignatureError(f"{whose} carries no signature")
    return signed, signature


def _mac(secret: str, signed: dict) -> str:
    return hmac.new(secret.encode(), canonical(signed), sha256).hexdigest()
