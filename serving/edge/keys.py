"""Make, list and revoke the API keys of the edge, and check them. Only a key's hash is stored, so a key is shown once.

A key made with `--user` is for requests of that user only; others may name any user.
"""

from __future__ import annotations

import argparse
import logging
import secrets
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

from filelock import FileLock
from pydantic import AwareDatetime, BaseModel, ConfigDict, TypeAdapter, ValidationError

from config.command import UserError, exits_cleanly
from config.validation import error_message
from data.files import write_bytes
from data.ids import canonical_id
from serving.edge import settings
from serving.edge.models import ApiError

log = logging.getLogger(__name__)

PREFIX = "tidegate"
SECRET_BYTES = 32
MAX_DAYS = 3650
RELOAD_SECONDS = 1.0  # a revoked key opens nothing after this
WRITABLE_BY_OTHERS = 0o022  # it holds hashes, so others may read it, but who adds a key gets in
RECOVERY = (
    "restore it from a backup (docs/runbook.md), or remove it and make new keys with `python -m serving.edge.keys make`: "
    "clients' old keys stay invalid"
)
CHALLENGE = {"WWW-Authenticate": "Bearer"}


class KeyFileError(UserError):
    """The stored keys cannot be read, or do not hold the requested one."""


class ApiKey(BaseModel):
    """One stored key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str  # names the key in logs and for revoking; not secret
    sha256: str  # of the whole key, in hexadecimal; a key is 256 random bits, so a slow hash would add nothing
    user_id: str | None  # the one user that the key is for; None: any
    expires: AwareDatetime | None

    def is_expired(self, now: datetime) -> bool:
        return self.expires is not None and now >= self.expires

    def permitted_user(self, user_id: str | None, is_numeric: bool = False) -> str | None:
        """The user to answer for, in the spelling of `data.ids`. Raises ApiError: 403 where the key is for another."""
        if self.user_id is None:
            return user_id
        own_id = canonical_id(self.user_id, is_numeric)
        if user_id is not None and user_id != own_id:
            raise ApiError(403, "user_id", "the API key is for one user, and this is another")
        return own_id


KEY_LIST = TypeAdapter(list[ApiKey])


def hash_key(text: str) -> str:
    """The stored hash of a key."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def create_key(user_id: str | None = None, expires: datetime | None = None) -> tuple[str, ApiKey]:
    """A new key: its text, which is shown once, and the entry to store."""
    key_id = secrets.token_hex(4)
    text = f"{PREFIX}_{key_id}_{secrets.token_urlsafe(SECRET_BYTES)}"
    return text, ApiKey(id=key_id, sha256=hash_key(text), user_id=user_id, expires=expires)


def read_keys(path: Path) -> list[ApiKey]:
    """The keys in a file; none where there is no file. Raises KeyFileError."""
    try:
        mode, content = path.stat().st_mode & 0o777, path.read_bytes()
        keys = KEY_LIST.validate_json(content)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read ({error.strerror}); {RECOVERY}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        where = "".join(f"[{part!r}]" for part in fault["loc"])
        problem = f"{where} is not as `serving.edge.keys` wrote it: {error_message(fault)}" if content else " is empty"
        raise KeyFileError(f"{path}{problem}; {RECOVERY}") from None
    if mode & WRITABLE_BY_OTHERS:
        raise KeyFileError(f"{path} may be changed by other users (mode {mode:04o}); chmod 600 it, and check its keys")
    return keys


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
        write_bytes(path, KEY_LIST.dump_json(keys, indent=1), mode=0o600)


class Authenticator:
    """Checks API keys against the key file, which may change at any time. Raises KeyFileError: it cannot be read."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._next_check = 0.0
        self._loaded = self._file_version()
        self._keys = {key.sha256: key for key in read_keys(path)}

    @property
    def has_keys(self) -> bool:
        self.reload()
        return bool(self._keys)

    def authenticate(self, text: str | None) -> ApiKey:
        """The stored key of a key's text. Raises ApiError: 401 where it is no valid key."""
        if not text:
            message = "expected `Authorization: Bearer KEY` or `X-API-Key: KEY`"
            raise ApiError(401, "authorization", message, CHALLENGE)
        self.reload()
        key = self._keys.get(hash_key(text))
        if key is None:
            raise ApiError(401, "authorization", "the API key is unknown or was revoked", CHALLENGE)
        if key.is_expired(datetime.now(UTC)):
            raise ApiError(401, "authorization", f"the API key expired at {key.expires}", CHALLENGE)
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
            self._keys = {key.sha256: key for key in read_keys(self._path)}
            self._loaded = version
        except KeyFileError as error:  # the keys that were valid a moment ago stay valid
            log.error("the API keys stay as they were: %s", error)

    def _file_version(self) -> tuple[int, int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino


def format_key(key: ApiKey) -> str:
    """A stored key in one line."""
    state = "expired" if key.is_expired(datetime.now(UTC)) else "expires"
    user = "any user" if key.user_id is None else f"user {key.user_id}"
    return f"{key.id}  {state} {key.expires or 'never'}  for {user}"


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.edge.keys", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    make = actions.add_parser("make", help="make a key and print it")
    make.add_argument("--user", metavar="ID", help="the one user that it is for; default: any")
    make.add_argument("--days", type=float, default=90, help="until it expires; default: %(default)s")
    actions.add_parser("list", help="show the stored keys")
    revoke = actions.add_parser("revoke", help="make a key invalid from now on")
    revoke.add_argument("id", help="as `list` shows it")
    arguments = parser.parse_args(argv)
    path = settings.load().keys_path
    if arguments.action == "make":
        if not 0 < arguments.days <= MAX_DAYS:
            raise UserError(f"--days is {arguments.days:g}; expected more than 0 and at most {MAX_DAYS}")
        text, key = create_key(arguments.user, datetime.now(UTC) + timedelta(days=arguments.days))
        add_key(path, key)
        print(text)
        print(f"stored as {format_key(key)}, in {path}; the key itself is not stored", file=sys.stderr)
    elif arguments.action == "revoke":
        revoke_key(path, arguments.id)
        print(f"revoked {arguments.id}")
    else:
        print("\n".join(map(format_key, read_keys(path))) or f"{path} holds no keys")
    return 0


if __name__ == "__main__":
    sys.exit(main())
