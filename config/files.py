"""Write files completely or not at all, and durably.

Loads only the standard library, so that the serving worker and the HTTP services can use it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PARTIAL = ".partial"  # ends the names of files and folders that are not complete yet


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
