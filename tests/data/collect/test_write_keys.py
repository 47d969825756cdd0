"""Write keys: made, listed and revoked by a command; each is for one source and for nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from data.collect import settings, write_keys
from data.collect.schema import PURPOSES
from data.collect.write_keys import WriteKey
from web.keys import Authenticator, read_keys


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIDEGATE_COLLECT_HOME", str(tmp_path))
    return tmp_path


def test_a_key_is_shown_once_and_found_by_its_text(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert write_keys.main(["make", "shop", "--purposes", "all", "--origin", "https://shop.example"]) == 0
    text = capsys.readouterr().out.strip()
    key = Authenticator(settings.load().write_keys, WriteKey).authenticate(text)
    assert (key.source, key.purposes, key.origins) == ("shop", PURPOSES, ("https://shop.example",))
    assert text not in (home / "write_keys.json").read_text(encoding="utf-8")
    assert write_keys.main(["list"]) == 0
    assert "source shop" in capsys.readouterr().out
    assert write_keys.main(["revoke", key.id]) == 0
    assert read_keys(settings.load().write_keys, WriteKey) == []


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["Shop!"], "source"),
        (["shop", "--purposes", "sales"], "sales; expected some of analytics"),
        (["shop", "--origin", "shop.example"], "origins"),
        (["shop", "--events-per-second", "-1"], "events_per_second"),
        (["shop", "--days", "0"], "--days"),
    ],
)
def test_a_wrong_option_is_named(options: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert write_keys.main(["make", *options]) == 2
    assert named in capsys.readouterr().err


def test_a_setting_that_is_wrong_is_named_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDEGATE_COLLECT_PORT", "x")
    assert write_keys.main(["list"]) == 2
    assert "TIDEGATE_COLLECT_PORT" in capsys.readouterr().err
