"""Keys of the pseudonyms: made once, rotated without losing the old answers, moved from where they lay before."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from running import Edge, Start, make_settings

from serving.edge import settings as edge_settings
from serving.edge import user_keys
from serving.edge.request_log import pseudonym
from serving.edge.settings import EdgeSettings
from serving.edge.user_keys import (
    DAY_SECONDS,
    SecretError,
    load_keys,
    mark_used,
    of_line,
    read_keys,
    remove_expired,
    rotate,
)

NOW = 1_800_000_000.0


@pytest.fixture
def settings(tmp_path: Path) -> EdgeSettings:
    return make_settings(tmp_path / "edge", "http://127.0.0.1:9")


def test_the_first_key_is_made_once_and_for_its_owner_only(settings: EdgeSettings) -> None:
    (key,) = load_keys(settings)

    assert load_keys(settings) == [key]
    (file,) = settings.user_keys.iterdir()
    assert (file.name, file.stat().st_mode & 0o777) == ("1.key", 0o600)
    assert pseudonym(key.secret, "ann") != pseudonym(key.secret, "bob")


def test_by_default_the_keys_do_not_lie_in_the_folder_of_the_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TIDEGATE_STATE", str(tmp_path))
    edge = EdgeSettings()

    assert edge.user_keys == tmp_path / "keys/users"
    assert not edge.user_keys.is_relative_to(edge.home)


def test_an_edge_that_starts_first_makes_the_folder_of_all_keys_for_its_owner_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TIDEGATE_STATE", str(tmp_path / "state"))
    before = os.umask(0)
    try:
        load_keys(EdgeSettings())
    finally:
        os.umask(before)
    assert [(tmp_path / folder).stat().st_mode & 0o777 for folder in ("state/keys", "state/keys/users")] == [0o700] * 2


def test_after_a_rotation_old_lines_still_find_their_key_and_new_ones_have_another(start: Start) -> None:
    edge = start()
    edge.answer({"user_id": "ann"})
    rotate(edge.settings)
    edge.close()
    after = Edge(edge.settings)
    after.answer({"user_id": "ann"})
    old, new = after.served()
    after.close()
    edge.close = lambda: None
    keys = read_keys(edge.settings)

    assert old["user"] != new["user"]
    for line in (old, new):
        key = of_line(keys, line)
        assert key is not None
        assert pseudonym(key.secret, "ann") == line["user"]
    assert new["user_key"] == keys[0].id


def test_a_replaced_key_is_removed_when_no_line_under_it_is_left(settings: EdgeSettings) -> None:
    (old,) = load_keys(settings)
    new = rotate(settings)
    last_line = NOW - settings.retention_days * DAY_SECONDS
    for file in settings.user_keys.iterdir():
        os.utime(file, (last_line, last_line))

    remove_expired(settings, NOW)
    assert read_keys(settings) == [new, old]  # files expire by whole days
    remove_expired(settings, NOW + DAY_SECONDS + 1)
    assert read_keys(settings) == [new]
    remove_expired(settings, NOW + 1000 * DAY_SECONDS)
    assert read_keys(settings) == [new]


def test_a_replaced_key_that_an_edge_still_uses_is_kept(settings: EdgeSettings) -> None:
    (old,) = load_keys(settings)
    new = rotate(settings)
    for file in settings.user_keys.iterdir():
        os.utime(file, (0, 0))
    mark_used(settings, old)

    remove_expired(settings, time.time())
    assert read_keys(settings) == [new, old]


def test_the_key_of_an_earlier_release_is_moved_and_fits_lines_that_name_no_key(settings: EdgeSettings) -> None:
    settings.home.mkdir()
    former = settings.home / "user.key"
    former.write_text("0123456789abcdef" * 4, encoding="utf-8")
    former.chmod(0o600)
    assert len(read_keys(settings)) == 1  # a command that only reads leaves it where it is
    assert former.exists()
    (moved,) = load_keys(settings)
    rotate(settings)

    assert not former.exists()
    assert (settings.user_keys / "1.key").stat().st_mode & 0o777 == 0o600
    assert of_line(read_keys(settings), {"user": "x"}) == moved


def test_a_line_whose_key_is_gone_has_none(settings: EdgeSettings) -> None:
    assert of_line(load_keys(settings), {"user_key": "00000000"}) is None
    assert of_line([], {"user": "x"}) is None


def test_keys_of_the_environment_are_one_per_line_the_newest_first(tmp_path: Path) -> None:
    texts = ["the newer secret of two", "the older secret of two"]
    edge = make_settings(tmp_path / "edge", "http://127.0.0.1:9", user_secret="\n".join(texts))

    assert [key.id for key in load_keys(edge)] == [user_keys._parse(text, "x").id for text in texts]
    assert not edge.user_keys.exists()
    with pytest.raises(SecretError, match="put a new line before the others"):
        rotate(edge)


def test_a_secret_that_is_too_short_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="TIDEGATE_EDGE_USER_SECRET holds 5 characters; expected at least 16"):
        load_keys(make_settings(tmp_path / "edge", "http://127.0.0.1:9", user_secret="short"))


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (b"", 0o600, "is empty; restore it from a backup"),
        (b"0123456789abcdef" * 3, 0o600, "was cut off: its last key has 48 of 64 digits .*; restore it from a backup"),
        (b"\0" * 64, 0o600, "is damaged: it is not text; restore it from a backup"),
        (b"0123456789abcdef" * 4, 0o640, r"is open to other users \(mode 0640\); chmod 600 it"),
    ],
)
@pytest.mark.parametrize("name", ["edge/user.key", "edge-keys/1.key"])
def test_a_damaged_key_is_refused_with_the_way_to_recover(
    settings: EdgeSettings, tmp_path: Path, name: str, content: bytes, mode: int, message: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir()
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(SecretError, match=f"{path} {message}"):
        load_keys(settings)
    assert path.read_bytes() == content


def test_no_second_key_is_made_if_a_served_log_depends_on_the_first(edge: Edge) -> None:
    edge.answer({"user_id": "ann"})
    assert len(edge.served()) == 1
    path = edge.settings.user_keys / "1.key"
    path.unlink()
    with pytest.raises(SecretError, match="holds no key, and the served log depends on one; restore it from a"):
        load_keys(edge.settings)
    assert not path.exists()


def test_the_command_rotates_and_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("TIDEGATE_STATE", str(tmp_path))
    assert user_keys.main(["rotate"]) == user_keys.main(["list"]) == 0
    printed = capsys.readouterr().out.splitlines()

    assert printed[0].startswith("created the key ")
    assert [line.split()[1] for line in printed[1:]] == ["2.key", "1.key"]
    assert printed[1].endswith("newest")
    assert "removed after 20" in printed[2]


def test_the_command_expires_what_a_stopped_edge_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_STATE", str(tmp_path))
    assert user_keys.main(["rotate"]) == 0
    edge = edge_settings.load()
    os.utime(edge.user_keys / "1.key", (0, 0))
    today = datetime.now(UTC).date()
    for name in ("served", "requests"):
        (edge.home / name).mkdir(parents=True)
        for age in (0, edge.retention_days, edge.retention_days + 1):
            (edge.home / name / f"{name}-{today - timedelta(age)}-1-1.jsonl").write_text("{}\n", encoding="utf-8")

    assert user_keys.main(["expire"]) == 0
    assert [file.name for file in edge.user_keys.iterdir()] == ["2.key"]
    for name in ("served", "requests"):
        kept = {f"{name}-{today - timedelta(age)}-1-1.jsonl" for age in (0, edge.retention_days)}
        assert {file.name for file in (edge.home / name).iterdir()} == kept
