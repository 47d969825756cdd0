"""Keys of the pseudonyms that stand for users in the served log: create, rotate, list, expire with the lines.

Each line of the log names its key. The newest key hides users; an older one only serves to trace what was answered under
it, until those lines have expired. Keys lie in a folder of their own, away from the log: who has both can test whether
an answer went to a certain user.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

from config.command import UserError, exits_cleanly
from config.files import make_folder, write_bytes
from data.times import MICROSECONDS, to_iso
from serving.edge import settings
from serving.edge.request_log import Retention
from serving.edge.settings import EdgeSettings
from serving.key_file import read_key_file

FIRST = "1.key"
SUFFIX = ".key"  # of the files, <number>.key; the highest number is the newest key
FORMER = "user.key"  # in the edge's home, where the only key lay before
MIN_LENGTH = 16
DAY_SECONDS = 86_400
RECOVERY = (
    "restore it from a backup (docs/runbook.md), or move the folder served away: a new key is made then, and nobody can "
    "find a user's answers in the old log"
)


class SecretError(UserError):
    """A key that hides users is missing, damaged or too short."""


@dataclass(frozen=True)
class UserKey:
    """The key of a keyed hash."""

    secret: bytes

    @property
    def id(self) -> str:
        """Names the key in the served log."""
        return blake2b(self.secret, digest_size=4, person=b"user key").hexdigest()


def of_line(keys: Sequence[UserKey], line: Mapping[str, Any]) -> UserKey | None:
    """The key of a line of the served log, None if it is not here. A line without one is older than rotation."""
    if "user_key" not in line:
        return keys[-1] if keys else None
    return next((key for key in keys if key.id == line["user_key"]), None)


def load_keys(edge: EdgeSettings) -> list[UserKey]:
    """The keys, newest first. The first is created, and the key of an earlier release is moved to the folder.

    Raises:
        SecretError: a key is too short to hide anything, damaged, or missing while a served log depends on it.
    """
    if not edge.user_secret.get_secret_value() and not _files(edge.user_keys):
        for folder in (edge.user_keys.parent, edge.user_keys):  # the edge may be the first that needs a key
            make_folder(folder, mode=0o700)
        former = edge.home / FORMER
        if former.exists():
            _parse(read_key_file(former, RECOVERY, SecretError), former)
            shutil.move(former, edge.user_keys / FIRST)
        elif any(edge.home.glob("served/served-*.jsonl")):
            raise SecretError(f"{edge.user_keys} holds no key, and the served log depends on one; {RECOVERY}")
        else:
            _write(edge.user_keys / FIRST)
    return read_keys(edge)


def read_keys(edge: EdgeSettings) -> list[UserKey]:
    """The keys, newest first: of the environment, one per line, or of the folder. Changes nothing; may be empty.

    Raises:
        SecretError: a key is too short or damaged.
    """
    if text := edge.user_secret.get_secret_value():
        return [_parse(line, settings.variable("user_secret")) for line in text.splitlines() if line.strip()]
    files = _files(edge.user_keys)
    if not files and (former := edge.home / FORMER).exists():
        files = [former]
    return [_parse(read_key_file(file, RECOVERY, SecretError), file) for file in files]


def rotate(edge: EdgeSettings) -> UserKey:
    """Create a key that hides users from the next start of the edge on."""
    if edge.user_secret.get_secret_value():
        raise SecretError(f"the keys are in {settings.variable('user_secret')}: put a new line before the others")
    load_keys(edge)
    newest = _files(edge.user_keys)[0]
    return _write(newest.with_name(f"{int(newest.stem) + 1}{SUFFIX}"))


def mark_used(edge: EdgeSettings, key: UserKey) -> None:
    """Note in the file's time that lines are written under a key."""
    for file in _files(edge.user_keys):
        with suppress(OSError, SecretError):
            if _parse(read_key_file(file, RECOVERY, SecretError), file) == key:
                os.utime(file)


def retention(edge: EdgeSettings) -> Retention:
    """How long the logs are kept, and how large they may become."""
    return Retention(edge.retention_days, edge.log_mb * 1_000_000)


def expire(edge: EdgeSettings, now: float) -> None:
    """Remove lines, kept requests and replaced keys that have expired; `now` is in seconds since 1970."""
    for name in ("served", "requests"):  # also where none are kept any more
        retention(edge).remove_expired(edge.home / name, name, datetime.fromtimestamp(now, UTC).date())
    remove_expired(edge, now)


def remove_expired(edge: EdgeSettings, now: float) -> None:
    """Remove keys that were replaced, and under which no line can be left; `now` is in seconds since 1970."""
    for file in _files(edge.user_keys)[1:]:
        with suppress(OSError):
            if file.stat().st_mtime < now - (edge.retention_days + 1) * DAY_SECONDS:
                file.unlink()


def _files(folder: Path) -> list[Path]:
    found = [file for file in folder.glob(f"*{SUFFIX}") if file.stem.isdecimal()]
    return sorted(found, key=lambda file: int(file.stem), reverse=True)


def _write(file: Path) -> UserKey:
    """Create a key, for its owner only; of several processes that do so at once, one wins."""
    write_bytes(file, secrets.token_hex(32).encode(), mode=0o600, replace=False)
    return _parse(read_key_file(file, RECOVERY, SecretError), file)


def _parse(text: str, origin: object) -> UserKey:
    text = text.strip()
    if len(text) < MIN_LENGTH:
        raise SecretError(f"{origin} holds {len(text)} characters; expected at least {MIN_LENGTH}")
    return UserKey(blake2b(text.encode(), digest_size=32).digest())


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.edge.user_keys", description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="show the keys, newest first")
    actions.add_parser("rotate", help="create a key that hides users from the next start of the edge on")
    actions.add_parser(
        "expire", help="remove lines, kept requests and replaced keys that have expired, as the edge does"
    )
    arguments = parser.parse_args(argv)
    edge = settings.load()
    if arguments.action == "expire":
        expire(edge, time.time())
        print(f"removed what {edge.home} and {edge.user_keys} held for more than {edge.retention_days} days")
        return 0
    if arguments.action == "rotate":
        key = rotate(edge)
        print(
            f"created the key {key.id}; start the edge again to use it. The key before it stays until lines under it expire"
        )
        return 0
    for file, key in zip(_files(edge.user_keys), read_keys(edge), strict=False):
        used = int(file.stat().st_mtime)
        expiry = to_iso((used + (edge.retention_days + 1) * DAY_SECONDS) * MICROSECONDS)
        state = "newest" if file == _files(edge.user_keys)[0] else f"removed after {expiry}"
        print(f"{key.id}  {file.name}  last used {to_iso(used * MICROSECONDS)}  {state}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
