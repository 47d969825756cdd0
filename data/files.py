"""Write files and folders completely or not at all, and read the JSON files of pipeline stages.

Loads only the standard library, so that the serving worker and the edge can use it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

from config.command import UserError


class DataError(UserError):
    """Data or a data setting cannot be used. The message names the file, column or key, and the value."""


def write_bytes(path: Path, content: bytes, mode: int = 0o666, durable: bool = False, replace: bool = True) -> None:
    """Replace a file atomically: a concurrent reader sees the old content or the new. Creates the folder.

    Args:
        mode: permissions of the file, less the umask.
        durable: also flush the file and its name to disk, so that it survives a power failure.
        replace: False keeps an existing file; of several processes that create it at once, one wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)  # a file left by a killed process would keep its own mode
    with open(partial, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        file.write(content)
        if durable:
            file.flush()
            os.fsync(file.fileno())
    if replace:
        partial.replace(path)
    else:
        with suppress(FileExistsError):
            os.link(partial, path)
        partial.unlink()
    if durable:
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Replace a UTF-8 text file atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file atomically; indented, so that people can read it and git can compare it."""
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

    If the block fails or the process is killed, the old folder stays as it was.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial, old = (folder.parent / f".{folder.name}.{state}" for state in ("partial", "old"))
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
