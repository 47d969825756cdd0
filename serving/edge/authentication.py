"""API keys: how they are stored (hashed), who a request may ask for, and how often.

Whoever holds the key file holds no key. A key has a role: `server` may ask for any user, `user` for one.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock

from config.command import UserError
from serving.edge.models import ApiError

log = logging.getLogger(__name__)

SERVER, USER = "server", "user"
ROLES = (SERVER, USER)
PREFIX = "tidegate"
SECRET_BYTES = 32
RELOAD_SECONDS = 1.0  # a revoked key opens nothing after this
CHALLENGE = {"WWW-Authenticate": "Bearer"}


class KeyFileError(UserError):
    """The stored keys cannot be read, or do not hold the requested one."""


@dataclass(frozen=True)
class ApiKey:
    """One stored key.

    Attributes:
        id: names the key in logs and for revoking; not secret.
        sha256: of the whole key, in hexadecimal. A key is 256 random bits, so a slow hash would add nothing.
        role: server or user.
        user_id: the one user that a key of role user may ask for.
        expires: ISO 8601 in UTC; None: never.
    """

    id: str
    sha256: str
    role: str
    user_id: str | None = None
    expires: str | None = None

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise KeyFileError(f"key {self.id}: role is {self.role!r}; expected {' or '.join(ROLES)}")
        if (self.role == USER) != (self.user_id is not None):
            raise KeyFileError(f"key {self.id}: a key of role {USER}, and no other, has a user_id")
        if self.expires is not None:
            self._expiry()

    def is_expired(self, now: datetime) -> bool:
        return self.expires is not None and now >= self._expiry()

    def _expiry(self) -> datetime:
        try:
            moment = datetime.fromisoformat(str(self.expires))
        except ValueError:
            raise KeyFileError(f"key {self.id}: expires is {self.expires!r}; expected an ISO 8601 time") from None
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def hash_key(text: str) -> str:
    """The stored hash of a key."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def create_key(role: str, user_id: str | None, expires: datetime | None) -> tuple[str, ApiKey]:
    """A new key: its text, which is shown once, and the entry to store."""
    key_id = secrets.token_hex(4)
    text = f"{PREFIX}_{key_id}_{secrets.token_urlsafe(SECRET_BYTES)}"
    until = None if expires is None else expires.astimezone(UTC).isoformat(timespec="seconds")
    return text, ApiKey(key_id, hash_key(text), role, user_id, until)


def parse_keys(text: str, origin: str) -> list[ApiKey]:
    """The keys in a JSON list.

    Raises:
        KeyFileError: the text is no list of keys; names `origin`.
    """
    try:
        entries: list[dict[str, Any]] = json.loads(text)
        return [ApiKey(**entry) for entry in entries]
    except KeyFileError as error:
        raise KeyFileError(f"{origin}: {error}") from None
    except (ValueError, TypeError) as error:
        raise KeyFileError(f"{origin} is not a list of keys: {str(error)[:200]}") from None


def read_keys(path: Path) -> list[ApiKey]:
    """The keys in a file; none where there is no file. Raises KeyFileError."""
    try:
        return parse_keys(path.read_text(), str(path))
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise KeyFileError(f"{path} cannot be read: {error}") from None


def add_key(path: Path, key: ApiKey) -> None:
    with _update(path) as keys:
        keys.append(key)


def revoke_key(path: Path, key_id: str) -> None:
    """Raises KeyFileError where there is no such key."""
    with _update(path) as keys:
        kept = [key for key in keys if key.id != key_id]
        if len(kept) == len(keys):
            raise KeyFileError(f"{path} holds no key {key_id}")
        keys[:] = kept


@contextmanager
def _update(path: Path) -> Iterator[list[ApiKey]]:
    """The keys of a file, to change in place: one process at a time, and the file is replaced whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f"{path.name}.lock")):
        keys = read_keys(path)
        yield keys
        _write_private(path, json.dumps([asdict(key) for key in keys], indent=1))


class RateLimit:
    """Token bucket per key, in this process.

    Args:
        per_second: tokens that come back each second, at most `burst` in all.
        clock: seconds, monotonic.
    """

    def __init__(self, per_second: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._burst, self._clock = per_second, max(1.0, burst), clock
        self._buckets: dict[str, tuple[float, float]] = {}  # key id -> (tokens, as of when)

    def take(self, key_id: str) -> float:
        """0 where the request may go on, else the seconds until one may."""
        now = self._clock()
        tokens, since = self._buckets.get(key_id, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._per_second)
        if tokens < 1:
            self._buckets[key_id] = tokens, now
            return (1 - tokens) / self._per_second
        self._buckets[key_id] = tokens - 1, now
        return 0.0


class Authenticator:
    """Checks API keys against the key file, which may change at any time, and the keys of the environment.

    Args:
        path: of the key file; it need not exist yet.
        fixed_keys: keys of the environment.
        clock: seconds, monotonic.

    Raises:
        KeyFileError: the key file cannot be read.
    """

    def __init__(
        self, path: Path, fixed_keys: list[ApiKey], limit: RateLimit, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self._fixed_keys, self._limit, self._clock = path, fixed_keys, limit, clock
        self._keys: dict[str, ApiKey] = {}
        self._next_check = 0.0
        self._loaded = self._file_version()
        self._set_keys(read_keys(path))

    @property
    def has_keys(self) -> bool:
        self.reload()
        return bool(self._keys)

    def authenticate(self, text: str | None) -> ApiKey:
        """The stored key of a key's text.

        Raises:
            ApiError: 401 where the text is no valid key; 429 where the key sends too many requests.
        """
        if not text:
            message = "expected `Authorization: Bearer KEY` or `X-API-Key: KEY`"
            raise ApiError(401, "authorization", message, CHALLENGE)
        self.reload()
        key = self._keys.get(hash_key(text))
        if key is None:
            raise ApiError(401, "authorization", "the API key is unknown or was revoked", CHALLENGE)
        if key.is_expired(datetime.now(UTC)):
            raise ApiError(401, "authorization", f"the API key expired at {key.expires}", CHALLENGE)
        wait = self._limit.take(key.id)
        if wait:
            message = f"the API key sends too many requests; go on in {wait:.2f} s"
            raise ApiError(429, None, message, {"Retry-After": str(math.ceil(wait))})
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
            self._set_keys(read_keys(self._path))
            self._loaded = version
        except KeyFileError as error:  # the keys that were valid a moment ago go on
            log.error("the API keys stay as they were: %s", error)

    def _set_keys(self, keys: list[ApiKey]) -> None:
        self._keys = {key.sha256: key for key in [*keys, *self._fixed_keys]}

    def _file_version(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino


def permitted_user(key: ApiKey, user_id: str | None) -> str | None:
    """The user to answer for.

    Raises:
        ApiError: 403 where the key is of another user.
    """
    if key.role != USER:
        return user_id
    if user_id is not None and user_id != key.user_id:
        raise ApiError(403, "user_id", "the API key may ask for one user, and this is another")
    return key.user_id


def _write_private(path: Path, text: str) -> None:
    """Replace a file by one that only its owner may read."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    partial.replace(path)
