"""Products are written completely or not at all."""

from __future__ import annotations

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


def test_a_product_is_not_flushed(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: pytest.fail("flushed"))
    files.write_json(tmp_path / "a.json", {})


def test_a_missing_file_names_the_command_that_creates_it(tmp_path):
    with pytest.raises(files.DataError, match=r"a\.json does not exist; run python -m data\.split first"):
        files.read_json(tmp_path / "a.json", "python -m data.split")


def test_a_json_hash_ignores_the_order_of_keys():
    assert files.json_hash({"a": 1, "b": [2]}) == files.json_hash({"b": [2], "a": 1}) != files.json_hash({"a": 1})
