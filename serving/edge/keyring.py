"""API keys as they are stored: hashed, each with a role and an end. Who holds the file holds no key."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from config.command import UserError

SERVER, USER = "server", "user"  # may ask for anybody; may ask for one user alone
ROLES = (SERVER, USER)
PREFIX = "tidegate"
SECRET_BYTES = 32


class KeyringError(UserError):
    """The stored keys cannot be read, or do not hold what was asked for."""


@dataclass(frozen=True)
class Key:
    """One stored key.

    Attributes:
        id: names it in logs and to revoke it; no secret.
        sha256: of the whole key, as hexadecimal digits. Keys are 256 random bits: there is nothing to guess slowly.
        role: server or user.
        user_id: the one user that a key of role user may ask for.
        expires: ISO 8601 in UTC; None never does.
    """

    id: str
    sha256: str
    role: str
    user_id: str | None = None
    expires: str | None = None

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise KeyringError(f"key {self.id}: role is {self.role!r}; expected {' or '.join(ROLES)}")
        if (self.role == USER) != (self.user_id is not None):
            raise KeyringError(f"key {self.id}: a key of role {USER}, and no other, names its user_id")
        if self.expires is not None:
            _moment(self)

    def expired(self, now: datetime) -> bool:
        return self.expires is not None and now >= _moment(self)


def digest(text: str) -> str:
    """What is stored of a key."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def new(role: str, user_id: str | None, expires: datetime | None) -> tuple[str, Key]:
    """A fresh key: its text, which is shown once, and what is stored of it."""
    name = secrets.token_hex(4)
    text = f"{PREFIX}_{name}_{secrets.token_urlsafe(SECRET_BYTES)}"
    until = None if expires is None else expires.astimezone(UTC).isoformat(timespec="seconds")
    return text, Key(name, digest(text), role, user_id, until)


def parse(text: str, origin: str) -> list[Key]:
    """The keys in a JSON list.

    Raises:
        KeyringError: it is none; names `origin`.
    """
    try:
        entries: list[dict[str, Any]] = json.loads(text)
        return [Key(**entry) for entry in entries]
    except KeyringError as error:
        raise KeyringError(f"{origin}: {error}") from None
    except (ValueError, TypeError) as error:
        raise KeyringError(f"{origin} holds no list of keys: {str(error)[:200]}") from None


def read(path: Path) -> list[Key]:
    """The keys in a file; none where there is no file."""
    try:
        return parse(path.read_text(), str(path))
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise KeyringError(f"{path} cannot be read: {error}") from None


def add(path: Path, key: Key) -> None:
    with _changing(path) as keys:
        keys.append(key)


def revoke(path: Path, name: str) -> None:
    """Raises KeyringError where there is no such key."""
    with _changing(path) as keys:
        kept = [key for key in keys if key.id != name]
        if len(kept) == len(keys):
            raise KeyringError(f"{path} holds no key {name}")
        keys[:] = kept


@contextmanager
def _changing(path: Path) -> Iterator[list[Key]]:
    """The keys of a file, to be changed in place: one process at a time, and the file is replaced whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keys = read(path)
        yield keys
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump([asdict(key) for key in keys], file, indent=1)
        partial.replace(path)


def _moment(key: Key) -> datetime:
    try:
        moment = datetime.fromisoformat(str(key.expires))
    except ValueError:
        raise KeyringError(f"key {key.id}: expires is {key.expires!r}; expected an ISO 8601 time") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
