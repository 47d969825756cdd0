"""The command that makes, lists and revokes API keys."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from serving.edge import keys
from serving.edge.authentication import hash_key, read_keys


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIDEGATE_EDGE_HOME", str(tmp_path))
    return tmp_path


def test_the_command_makes_lists_and_revokes(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert keys.main(["make", "--role", "user", "--user", "ann", "--days", "30"]) == 0
    text = capsys.readouterr().out.strip()
    file = home / "keys.json"
    assert text not in file.read_text()
    (key,) = read_keys(file)
    assert key.sha256 == hash_key(text)
    assert timedelta(days=29) < datetime.fromisoformat(key.expires) - datetime.now(UTC) < timedelta(days=31)
    assert keys.main(["list"]) == 0
    assert f"{key.id}  user    expires" in capsys.readouterr().out
    assert keys.main(["revoke", key.id]) == 0
    assert read_keys(file) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["make", "--role", "user"], "--user names the one user of a key of --role user"),
        (["make", "--user", "ann"], "--user names the one user of a key of --role user"),
        (["make", "--days", "0"], "--days is 0; expected more than 0"),
        (["revoke", "nosuch"], "{home}/keys.json holds no key nosuch"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert keys.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message.format(home=home)}")
    assert len(error.splitlines()) == 1
