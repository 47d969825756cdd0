"""Files and folders are written completely or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from data import files


def test_a_run_that_fails_while_writing_keeps_the_old_folder(tmp_path):
    folder = tmp_path / "product"
    with files.replace_folder(folder) as partial:
        (partial / "a").write_text("old", encoding="utf-8")

    def write_half_and_die():
        with files.replace_folder(folder) as partial:
            (partial / "a").write_text("new", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half_and_die()
    assert [file.name for file in tmp_path.iterdir()] == ["product"]
    assert (folder / "a").read_text(encoding="utf-8") == "old"


def test_a_folder_of_a_run_that_was_killed_between_its_renames_comes_back(tmp_path):
    folder = tmp_path / "product"
    folder.mkdir()
    (folder / "a").write_text("old", encoding="utf-8")
    folder.rename(tmp_path / ".product.old")  # as the killed run left it

    with pytest.raises(RuntimeError), files.replace_folder(folder):
        raise RuntimeError
    assert (folder / "a").read_text(encoding="utf-8") == "old"


def test_a_write_that_fails_keeps_the_old_file(tmp_path, monkeypatch):
    files.write_json(tmp_path / "a.json", {"old": 1})

    def fail(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        files.write_json(tmp_path / "a.json", {"new": 2})
    assert files.read_json(tmp_path / "a.json", "nothing") == {"old": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


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


def test_a_product_is_replaced_atomically_and_not_flushed(tmp_path, steps):
    files.write_json(tmp_path / "a.json", {})

    assert steps == ["rename to a.json"]


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


def test_a_missing_file_names_the_command_that_creates_it(tmp_path):
    with pytest.raises(files.DataError, match=r"a\.json does not exist; run python -m data\.split first"):
        files.read_json(tmp_path / "a.json", "python -m data.split")


def test_a_json_hash_ignores_the_order_of_keys():
    assert files.json_hash({"a": 1, "b": [2]}) == files.json_hash({"b": [2], "a": 1}) != files.json_hash({"a": 1})
