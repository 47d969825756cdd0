"""The Ed25519 keys of a machine: private keys, which sign, and the public keys that it trusts.

A private key has a role: `gate` may sign everything, `operator` only OPERATOR_KINDS. It is a PEM file that its owner alone
may read (`state/keys/gate.pem`), or the text of TIDEGATE_GATE_KEY. Trusted public keys are public: lines of
`<role> ed25519 <base64> <name>` in `state/keys/trusted`, or in TIDEGATE_TRUSTED_KEYS. A private key that was replaced is gone;
its public key verifies what it signed until it is forgotten.
"""

from __future__ import annotations

import binascii
import os
import platform
from base64 import b64decode, b64encode
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from filelock import FileLock

from config import files
from serving import settings as environment
from serving.deployment.errors import SignatureError
from serving.key_file import read_key_file
from serving.settings import variable

GATE, OPERATOR = ROLES = ("gate", "operator")
# What an operator's key may sign. Of an unknown kind only the gate's may, so a new kind is safe before it is listed.
OPERATOR_KINDS = frozenset({"rollback", "override", "rollout step", "archive"})
ALGORITHM, PUBLIC_BYTES = "ed25519", 32
WRITABLE_BY_OTHERS, STICKY = 0o022, 0o1000
COMMAND = "python -m serving.signing_keys"
LINE = f"<role> {ALGORITHM} <base64> <name>"


@dataclass(frozen=True)
class PublicKey:
    """A public key with what it may sign."""

    role: str
    content: bytes
    name: str

    @property
    def id(self) -> str:
        """Its name in signatures."""
        return sha256(self.content).hexdigest()[:16]

    @property
    def verifier(self) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(self.content)

    def may_sign(self, kind: str) -> bool:
        return self.role == GATE or kind in OPERATOR_KINDS

    def __str__(self) -> str:
        return f"{self.role} {ALGORITHM} {b64encode(self.content).decode()} {self.name}"


@dataclass(frozen=True)
class TrustedKeys:
    """Public keys by id, and where they come from, for errors."""

    keys: dict[str, PublicKey]
    origin: str


def private_key(role: str) -> Ed25519PrivateKey | None:
    """The key that signs for a role; None if this machine has none.

    Raises:
        SignatureError: it is damaged, cut off or no Ed25519 key, or other users may read its file.
    """
    text, path, name = _secret(role), key_path(role), variable(f"{role}_key")
    if text and getattr(environment.load(), f"{role}_key_file"):
        raise SignatureError(f"{name} and {name}_FILE are both set; set one")
    if text:
        return _parse_private(text, name, f"`{COMMAND} create` makes one in a file")
    if not path.exists():
        return None
    recovery = f"remove it, then {lost(role)}"
    return _parse_private(read_key_file(path, recovery, SignatureError), str(path), recovery)


def trusted() -> TrustedKeys:
    """The public keys whose signatures count here.

    Without a list of them, those of this machine's own private keys.

    Raises:
        SignatureError: there are none, a line is damaged, or other users may change the file.
    """
    settings = environment.load()
    if settings.trusted_keys and settings.trusted_keys_file:
        raise SignatureError(f"{variable('trusted_keys')} and {variable('trusted_keys_file')} are both set; set one")
    if settings.trusted_keys:
        return _parse_trusted(settings.trusted_keys, variable("trusted_keys"))
    path = settings.trusted_keys_path
    if path.exists():
        return _parse_trusted(_read_trusted(path), str(path))
    own = own_keys()
    if not own:
        raise SignatureError(
            f"there are no trusted keys at {path}, so no signature can be verified; copy the file of the machine that signs "
            f"there, or set {variable('trusted_keys')} to its text; if all are lost, restore them from a backup "
            f"(docs/runbook.md), or run `{COMMAND} create`: every version needs the gate or an override again then"
        )
    return TrustedKeys({key.id: key for key in own}, f"this machine without {path}")


def own_keys() -> list[PublicKey]:
    """The public keys of this machine's private keys."""
    return [public_key(role, key) for role in ROLES if (key := private_key(role))]


def may_create() -> bool:
    """Whether nobody has chosen keys for this machine yet: no private key, and no list of trusted ones."""
    settings = environment.load()
    chosen = settings.trusted_keys or settings.trusted_keys_path.exists()
    return not chosen and not any(_secret(role) or key_path(role).exists() for role in ROLES)


def create(roles: Iterable[str] = ROLES) -> list[PublicKey]:
    """Make a private key for each role that has none, and trust the new ones; those that are new.

    Of several processes that start at once, the first one creates.
    """
    new = []
    with _lock():
        for role in roles:
            if not _secret(role) and not key_path(role).exists():
                new.append(_write_private(role, Ed25519PrivateKey.generate()))
        if new:
            _trust(new)
    return new


def rotate(role: str) -> PublicKey:
    """Replace a private key; the new public key. The old one stays trusted.

    Raises:
        SignatureError: there is no key to replace, or a variable holds it.
    """
    if _secret(role):
        name = variable(f"{role}_key")
        raise SignatureError(f"{name} holds the key; make another one (`{COMMAND} create` elsewhere) and set it there")
    with _lock():
        if (old := private_key(role)) is None:
            raise SignatureError(f"there is no {role} key at {key_path(role)}; `{COMMAND} create {role}` makes one")
        key = Ed25519PrivateKey.generate()
        _trust([public_key(role, old), public_key(role, key)])  # first: a key that nobody trusts may not sign
        return _write_private(role, key)


def trust(line: str) -> PublicKey:
    """Trust another machine's public key, as `list` prints it there."""
    key = _parse_line(line, "the argument")
    with _lock():
        _trust([key])
    return key


def forget(key_id: str) -> None:
    """Trust a public key no longer; what it signed is no longer valid.

    Raises:
        SignatureError: it is not trusted, a private key of this machine belongs to it, or a variable holds the list.
    """
    with _lock():
        known = trusted()
        if key_id not in known.keys:
            raise SignatureError(f"{known.origin} does not trust a key {key_id}; it trusts {', '.join(known.keys)}")
        if key_id in {key.id for key in own_keys()}:
            raise SignatureError(f"the key {key_id} signs here; rotate it first")
        path = _editable_list()
        kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _id_of(line) != key_id]
        _write_trusted(path, kept)


def public_key(role: str, key: Ed25519PrivateKey) -> PublicKey:
    return PublicKey(role, key.public_key().public_bytes_raw(), _new_name())


def lost(role: str) -> str:
    """What to do about a private key that is lost."""
    return (
        f"restore it from a backup (docs/runbook.md), or run `{COMMAND} create {role}`: what the lost key signed stays "
        "valid where its public key is trusted, else every version needs the gate or an override again"
    )


def key_path(role: str) -> Path:
    settings = environment.load()
    return getattr(settings, f"{role}_key_file") or settings.keys / f"{role}.pem"


def _secret(role: str) -> str:
    return getattr(environment.load(), f"{role}_key").get_secret_value().strip()


def _parse_private(text: str, origin: str, recovery: str) -> Ed25519PrivateKey:
    key = None
    with suppress(ValueError, TypeError, UnsupportedAlgorithm):
        key = load_pem_private_key(text.encode(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise SignatureError(f"{origin} holds no whole Ed25519 private key in PEM form; {recovery}")
    return key


def _parse_trusted(text: str, origin: str) -> TrustedKeys:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    keys = [_parse_line(line, origin) for line in lines]
    by_id = {key.id: key for key in keys}
    if not keys or len(by_id) < len(keys):
        raise SignatureError(f"{origin} {'names a key twice' if keys else 'holds no trusted key'}; {_restore_list()}")
    return TrustedKeys(by_id, origin)


def _parse_line(line: str, origin: str) -> PublicKey:
    fields, content = line.split(), b""
    if len(fields) == 4:
        with suppress(binascii.Error, ValueError):
            content = b64decode(fields[2], validate=True)
    if len(content) != PUBLIC_BYTES or fields[0] not in ROLES or fields[1] != ALGORITHM:
        raise SignatureError(f"{origin} holds {line[:80]!r}; expected `{LINE}` with a role of {' or '.join(ROLES)}")
    return PublicKey(fields[0], content, fields[3])


def _id_of(line: str) -> str | None:
    with suppress(SignatureError):
        return _parse_line(line, "").id
    return None


def _read_trusted(path: Path) -> str:
    """The text of the list. Raises SignatureError: it cannot be read, is no text, or other users may change it.

    Who may write its folder may replace it, except in one like /tmp, where only its owner may.
    """
    try:
        file, folder, text = path.stat(), path.parent.stat(), path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise SignatureError(f"{path} cannot be read ({fault}); {_restore_list()}") from None
    for place, found, mode in ((path, file, 644), (path.parent, folder, 755)):
        is_open = found.st_mode & WRITABLE_BY_OTHERS and not (place != path and found.st_mode & STICKY)
        if is_open or found.st_uid not in (0, os.geteuid()):
            state = f"owner {found.st_uid}, mode {found.st_mode & 0o7777:04o}"
            raise SignatureError(
                f"{place} can be changed by other users ({state}); check the keys in {path.name}, then own and chmod {mode} it"
            )
    return text


def _restore_list() -> str:
    return "restore it from a backup or copy it from another machine; without the file, this machine trusts its own keys only"


def _editable_list() -> Path:
    """The file of trusted keys. Raises SignatureError if a variable holds the list."""
    settings = environment.load()
    if settings.trusted_keys:
        raise SignatureError(f"{variable('trusted_keys')} holds the trusted keys; change it where it is set")
    return settings.trusted_keys_path


def _trust(new: list[PublicKey]) -> None:
    """Add keys to the file of trusted ones; where a variable holds the list, its owner adds them."""
    if environment.load().trusted_keys:
        return
    path = _editable_list()
    lines = _read_trusted(path).splitlines() if path.exists() else [str(key) for key in own_keys()]
    known = {_id_of(line) for line in lines}
    _write_trusted(path, [*lines, *(str(key) for key in new if key.id not in known)])


def _write_trusted(path: Path, lines: list[str]) -> None:
    files.write_bytes(path, "".join(f"{line}\n" for line in lines).encode(), mode=0o644)


def _write_private(role: str, key: Ed25519PrivateKey) -> PublicKey:
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    files.write_bytes(key_path(role), text, mode=0o600)
    return public_key(role, key)


def _new_name() -> str:
    return f"{platform.node() or 'unknown'}-{datetime.now(UTC):%Y-%m-%d}".replace(" ", "-")


def _lock() -> FileLock:
    """Lets one process at a time change this machine's keys."""
    folder = environment.load().keys
    files.make_folder(folder, mode=0o700)
    return FileLock(folder / "keys.lock")
