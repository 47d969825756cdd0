"""Keys that open a service: stored by their hashes in a file, and checked. A key's text is shown once, when it is made.

A service names its own kind of key, with what such a key permits, by a subclass of `StoredKey`.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from filelock import FileLock
from pydantic import AwareDatetime, BaseModel, ConfigDict, TypeAdapter, ValidationError

from config.command import UserError
from config.files import write_bytes
from config.validation import error_message
from web.errors import ApiError

log = logging.getLogger(__name__)

PREFIX = "tidegate"
SECRET_BYTES = 32
MAX_DAYS = 3650
RELOAD_SECONDS = 1.0  # a revoked key opens nothing after this
WRITABLE_BY_OTHERS = 0o022  # it holds hashes, so others may read it, but who adds a key gets in
CHALLENGE = {"WWW-Authenticate": "Bearer"}


class KeyFileError(UserError):
    """The stored keys cannot be read, or do not hold the requested one."""


class StoredKey(BaseModel):
    """One stored key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: ClassVar[str]  # in messages, such as "API key"
    command: ClassVar[str]  # the module whose `make` creates such keys
    usage: ClassVar[str]  # how a request carries one

    id: str  # names the key in logs and for revoking; not secret
    sha256: str  # of the whole key, in hexadecimal; a key is 256 random bits, so a slow hash would add nothing
    expires: AwareDatetime | None

    def is_expired(self, now: datetime) -> bool:
        return self.expires is not None and now >= self.expires

    @property
    def expiry(self) -> str:
        """When it expires or expired, in words."""
        state = "expired" if self.is_expired(datetime.now(UTC)) else "expires"
        return f"{state} {self.expires or 'never'}"


Key = TypeVar("Key", bound=StoredKey)


def hash_key(text: str) -> str:
    """The stored hash of a key."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def create(key_class: type[Key], expires: datetime | None, **fields: Any) -> tuple[str, Key]:
    """A new key: its text, which is shown once, and the entry to store. `fields` are those of the subclass."""
    key_id = secrets.token_hex(4)
    text = f"{PREFIX}_{key_id}_{secrets.token_urlsafe(SECRET_BYTES)}"
    return text, key_class(id=key_id, sha256=hash_key(text), expires=expires, **fields)


def expires_after(days: float) -> datetime:
    """When a key that is made now expires. Raises UserError: the option --days is out of its bounds."""
    if not 0 < days <= MAX_DAYS:
        raise UserError(f"--days is {days:g}; expected more than 0 and at most {MAX_DAYS}")
    return datetime.now(UTC) + timedelta(days=days)


@cache
def _list_of(key_class: type[StoredKey]) -> TypeAdapter:
    return TypeAdapter(list[key_class])  # type: ignore[valid-type]


def read_keys(path: Path, key_class: type[Key]) -> list[Key]:
    """The keys in a file; none where there is no file. Raises KeyFileError."""
    command = key_class.command
    recovery = (
        f"restore it from a backup (docs/runbook.md), or remove it and make new keys with `python -m {command} make`: "
        "clients' old keys stay invalid"
    )
    try:
        mode, content = path.stat().st_mode & 0o777, path.read_bytes()
        keys: list[Key] = _list_of(key_class).validate_json(content)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read ({error.strerror}); {recovery}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        where = "".join(f"[{part!r}]" for part in fault["loc"])
        problem = f"{where} is not as `{command}` wrote it: {error_message(fault)}" if content else " is empty"
        raise KeyFileError(f"{path}{problem}; {recovery}") from None
    if mode & WRITABLE_BY_OTHERS:
        raise KeyFileError(f"{path} may be changed by other users (mode {mode:04o}); chmod 600 it, and check its keys")
    return keys


def add_key(path: Path, key: StoredKey) -> None:
    """Add a key to the file of its kind. Raises KeyFileError."""
    with _update(path, type(key)) as keys:
        keys.append(key)


def revoke_key(path: Path, key_class: type[StoredKey], key_id: str) -> None:
    """Raises KeyFileError where there is no such key."""
    with _update(path, key_class) as keys:
        kept = [key for key in keys if key.id != key_id]
        if len(kept) == len(keys):
            raise KeyFileError(f"{path} holds no key {key_id}")
        keys[:] = kept


@contextmanager
def _update(path: Path, key_class: type[Key]) -> Iterator[list[Key]]:
    """The keys of a file, to change in place: one process at a time, and the file is replaced whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        keys = read_keys(path, key_class)
        yield keys
        write_bytes(path, _list_of(key_class).dump_json(keys, indent=1), mode=0o600)


class Authenticator(Generic[Key]):
    """Checks keys against the key file, which may change at any time. Raises KeyFileError: it cannot be read."""

    def __init__(self, path: Path, key_class: type[Key], clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._class, self._clock = path, key_class, clock
        self._next_check = 0.0
        self._loaded = self._file_version()
        self._keys = self._read()

    @property
    def has_keys(self) -> bool:
        self.reload()
        return bool(self._keys)

    def authenticate(self, text: str | None) -> Key:
        """The stored key of a key's text. Raises ApiError: 401 where it is no valid key."""
        if not text:
            raise ApiError(401, "authorization", f"expected {self._class.usage}", CHALLENGE)
        self.reload()
        key, kind = self._keys.get(hash_key(text)), self._class.kind
        if key is None:
            raise ApiError(401, "authorization", f"the {kind} is unknown or was revoked", CHALLENGE)
        if key.is_expired(datetime.now(UTC)):
            raise ApiError(401, "authorization", f"the {kind} expired at {key.expires}", CHALLENGE)
        return key

    def reload(self, force: bool = False) -> None:
        """Read the key file again if it changed; looks at most once in RELOAD_SECONDS unless forced."""
        now = self._clock()
        if now < self._next_check and not force:
            return
        self._next_check = now + RELOAD_SECONDS
        version = self._file_version()
        if version == self._loaded:
            return
        try:
            self._keys = self._read()
            self._loaded = version
        except KeyFileError as error:  # the keys that were valid a moment ago stay valid
            log.error("the %ss stay as they were: %s", self._class.kind, error)

    def _read(self) -> dict[str, Key]:
        return {key.sha256: key for key in read_keys(self._path, self._class)}

    def _file_version(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino
