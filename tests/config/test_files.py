"""Files are written completely or not at all, and what was written is on disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from config import files


@pytest.fixture
def steps(monkeypatch) -> list[str]:
    """What was flushed to disk, and which file was renamed, in this order."""
    found: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def record_fsync(descriptor: int) -> None:
        found.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def record_replace(self: Path, target: Path) -> Path:
        found.append(f"rename to {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_replace)
    return found


def test_a_file_is_on_disk_before_it_replaces_the_old_one_and_its_name_afterwards(tmp_path, steps):
    files.write_bytes(tmp_path / "key", b"secret", mode=0o600)

    assert steps == [f"sync .key.{os.getpid()}.partial", "rename to key", f"sync {tmp_path.name}"]


def test_the_names_of_new_folders_are_flushed_too(tmp_path, steps):
    files.write_bytes(tmp_path / "new" / "inner" / "key", b"secret")

    assert steps[:2] == [f"sync {tmp_path.name}", "sync new"]
    assert steps[-1] == "sync inner"


def test_a_file_that_may_be_lost_is_replaced_atomically_and_not_flushed(tmp_path, steps):
    files.write_bytes(tmp_path / "a", b"1", durable=False)

    assert steps == ["rename to a"]


def test_appended_lines_are_flushed_unless_they_may_be_lost(tmp_path, steps):
    files.append_lines(tmp_path / "log", b"1\n")
    files.append_lines(tmp_path / "log", b"2\n")
    files.append_lines(tmp_path / "log", b"3\n", durable=False)

    assert steps == ["sync log", f"sync {tmp_path.name}", "sync log"]
    assert (tmp_path / "log").read_bytes() == b"1\n2\n3\n"


def test_a_line_that_was_left_unfinished_does_not_spoil_the_next_one(tmp_path):
    (tmp_path / "log").write_bytes(b'{"whole":1}\n{"tor')
    files.append_lines(tmp_path / "log", b'{"next":1}\n')

    assert (tmp_path / "log").read_bytes().splitlines() == [b'{"whole":1}', b'{"tor', b'{"next":1}']


def test_half_a_line_is_removed(tmp_path, monkeypatch):
    path = tmp_path / "log.jsonl"
    files.append_lines(path, b'{"whole":1}\n')
    real_open = Path.open

    class Narrow:
        """A file whose disk has room for five bytes more."""

        def __init__(self, file) -> None:
            self._file, self._room = file, 5

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self._file.close()

        def __getattr__(self, name):
            return getattr(self._file, name)

        def write(self, content: bytes) -> int:
            if not self._room:
                raise OSError(28, "No space left on device")
            written = self._file.write(content[: self._room])
            self._room -= written
            return written

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, *args, **more: Narrow(real_open(self, *args, **more)))
        with pytest.raises(OSError, match="No space"):
            files.append_lines(path, b'{"lost":1}\n')
    files.append_lines(path, b'{"next":1}\n')
    assert path.read_bytes() == b'{"whole":1}\n{"next":1}\n'


def test_of_two_writers_that_must_not_replace_the_first_wins(tmp_path):
    for content in (b"first", b"second"):
        files.write_bytes(tmp_path / "key", content, replace=False)

    assert (tmp_path / "key").read_bytes() == b"first"
    assert [file.name for file in tmp_path.iterdir()] == ["key"]
