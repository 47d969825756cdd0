"""Write files and folders completely or not at all, and read the JSON files of pipeline stages.

Loads only the standard library, so that the serving worker and the edge can use it.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any

from config.command import UserError

PARTIAL = ".partial"  # ends the names of files and folders that are not complete yet


class DataError(UserError):
    """Data or a data setting cannot be used. The message names the file, column or key, and the value."""


@contextmanager
def replacing(path: Path, mode: int = 0o666, durable: bool = True, replace: bool = True) -> Iterator[Path]:
    """Yield the path of a new file that replaces `path` when the block ends without an error. Creates the folder.

    A concurrent reader sees the old content or the new.

    Args:
        mode: permissions of the file, less the umask.
        durable: also flush the file and its name to disk, so that it survives a power failure. What lies in `state/`
            needs it; products in `out/` do not, because they can be computed again.
        replace: False keeps an existing file; of several processes that create it at once, one wins.
    """
    make_folder(path.parent, durable)
    partial = path.with_name(f".{path.name}.{threading.get_native_id()}{PARTIAL}")
    partial.unlink(missing_ok=True)  # a file left by a killed process would keep its own mode
    os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode))
    try:
        yield partial
        if durable:
            sync(partial)
        if replace:
            partial.replace(path)
        else:
            with suppress(FileExistsError):
                os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    if durable:
        sync(path.parent)


def write_bytes(path: Path, content: bytes, mode: int = 0o666, durable: bool = True, replace: bool = True) -> None:
    """Replace a file atomically; the arguments are those of `replacing`."""
    with replacing(path, mode, durable, replace) as partial:
        partial.write_bytes(content)


def append_lines(path: Path, content: bytes, durable: bool = True) -> None:
    """Append whole lines to a file in an existing folder; if the disk refuses them (OSError), append nothing.

    A line that a killed process left unfinished is ended first, so that it spoils none of these.
    """
    is_new = not path.exists()
    with path.open("ab+", buffering=0) as file:
        before = file.seek(0, os.SEEK_END)
        if before:
            file.seek(before - 1)
            content = content if file.read(1) == b"\n" else b"\n" + content
        written = 0
        try:
            while written < len(content):
                written += file.write(content[written:])
        except OSError:
            if written:
                file.truncate(before)
            raise
        if durable:
            os.fsync(file.fileno())
    if durable and is_new:
        sync(path.parent)


def make_folder(folder: Path, durable: bool = True, mode: int = 0o777) -> None:
    """Create a folder and those above it, unless they exist; `durable` flushes their names to disk.

    `mode` is that of the folder itself, less the umask.
    """
    if not folder.is_dir():
        make_folder(folder.parent, durable)
        folder.mkdir(mode, exist_ok=True)
        if durable:
            sync(folder.parent)


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Flush a folder with all that it holds to disk."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def write_text(path: Path, text: str) -> None:
    """Replace the UTF-8 text file of a product atomically."""
    write_bytes(path, text.encode(), durable=False)


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
