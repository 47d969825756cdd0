"""Products of pipeline stages: JSON files and folders that are replaced whole, and the error of data.

Loads only the standard library, so that the serving worker can use it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

from config import files
from config.command import UserError


class DataError(UserError):
    """Data or a data setting cannot be used. The message names the file, column or key, and the value."""


def write_text(path: Path, text: str) -> None:
    """Replace the UTF-8 text file of a product atomically."""
    files.write_bytes(path, text.encode(), durable=False)


def write_json(path: Path, value: Any) -> None:
    """Replace the JSON file of a product atomically; indented, so that people can read it and git can compare it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, command: str) -> Any:
    """Read a JSON file that a pipeline stage wrote. If it is missing, a DataError names the `command` to run."""
    require_file(path, command)
    return json.loads(path.read_text(encoding="utf-8"))


def require_file(path: Path, command: str) -> None:
    """Raise a DataError that names the command to run if the file does not exist."""
    if not path.is_file():
        raise DataError(f"{path} does not exist; run {command} first")


@contextmanager
def replace_folder(folder: Path) -> Iterator[Path]:
    """Yield a new empty folder that replaces `folder` when the block ends without an error.

    If the block fails or the process is killed, the old folder stays as it was, or comes back with the next call.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial, old = (folder.parent / f".{folder.name}.{state}" for state in ("partial", "old"))
    if old.exists() and not folder.exists():  # a process was killed between the two renames
        os.replace(old, folder)
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if folder.exists():
        os.replace(folder, old)
    os.replace(partial, folder)
    shutil.rmtree(old, ignore_errors=True)


def json_hash(value: Any) -> str:
    """Hash a JSON value, independent of the order of its keys. Returns 32 hex digits (BLAKE2b, RFC 7693)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return blake2b(text.encode(), digest_size=16).hexdigest()
