"""Aliases say what the last signed move says; what is moved by hand is told, not deployed, and put back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data import files
from serving import deploy
from serving.deployment import alias_changes, registry
from serving.deployment.alias_changes import INTENT, KIND, name_of
from serving.deployment.model_versions import client
from serving.deployment.registry import CHAMPION, PREVIOUS, RegistryError
from serving.deployment.signature import Keys
from serving.deployment.status import overview
from serving.settings import ServerSettings
from serving.torchserve import server

pytestmark = pytest.mark.slow  # each test takes little, all of them many seconds

PROMOTED = {"verdict": "PROMOTE", "reason": "better by 5%"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of its own, which has seen nothing yet."""
    monkeypatch.setenv("TIDEGATE_SERVER_HOME", str(tmp_path / "here"))


@pytest.fixture
def signed(two) -> tuple[str, str]:
    """Champion 2, previous 1."""
    for version in two:
        registry.promote("tiny", version, PROMOTED)
    return two


def says() -> tuple[str | None, str | None]:
    found = (registry.aliased("tiny", alias) for alias in (CHAMPION, PREVIOUS))
    champion, previous = (version.version if version else None for version in found)
    return champion, previous


def entry(serial: int) -> dict:
    return json.loads(client().get_registered_model("tiny").tags[name_of(serial)])


def set_entry(serial: int, text: str) -> None:
    client().set_registered_model_tag("tiny", name_of(serial), text)


def test_each_move_leaves_who_when_from_where_to_and_why(signed) -> None:
    registry.rollback("tiny", "a spike of errors")
    told = [entry(serial)["signed"] for serial in (1, 2, 3)]
    assert [move["why"] for move in told] == ["promotion", "promotion", "rollback"]
    assert [move["after"] for move in told] == [
        {CHAMPION: "1", PREVIOUS: None},
        {CHAMPION: "2", PREVIOUS: "1"},
        {CHAMPION: "1", PREVIOUS: "2"},
    ]
    assert [move["before"] for move in told[1:]] == [move["after"] for move in told[:-1]]
    assert [move["reason"] for move in told] == ["better by 5%", "better by 5%", "a spike of errors"]
    assert all("@" in move["who"] and move["when"].endswith("Z") for move in told)
    assert INTENT not in client().get_registered_model("tiny").tags


@pytest.mark.parametrize("alias", [CHAMPION, PREVIOUS])
@pytest.mark.parametrize("gone", [False, True])
def test_an_alias_moved_by_hand_is_told_with_both_versions_and_put_back(signed, alias: str, gone: bool) -> None:
    right = {CHAMPION: "2", PREVIOUS: "1"}[alias]
    wrong = {"2": "1", "1": "2"}[right]  # either once passed the gate: its report alone would not tell
    if gone:
        client().delete_registered_model_alias("tiny", alias)
    else:
        client().set_registered_model_alias("tiny", alias, wrong)
    told = rf"{alias} was moved by hand: it says {'nothing' if gone else wrong}, the last signed move says {right} "
    with pytest.raises(RegistryError, match=told) as error:
        registry.serving_target("tiny", alias)
    assert len(str(error.value).splitlines()) == 1
    with pytest.raises(RegistryError, match="moved by hand"):
        registry.rollback("tiny")

    assert registry.restore("tiny").champion == "2"
    assert says() == ("2", "1")
    assert registry.serving_target("tiny", alias).version.version == right


def test_deploy_leaves_the_server_alone_where_the_champion_was_moved_by_hand(
    signed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    touched: list[object] = []
    monkeypatch.setattr(server, "start", touched.append)
    settings = ServerSettings(server_home=tmp_path / "home", state=tmp_path / "state")
    monkeypatch.setattr(deploy.environment, "load", lambda: settings)
    client().set_registered_model_alias("tiny", CHAMPION, "1")

    assert deploy.main(["--dataset", "tiny"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "it says 1, the last signed move says 2" in line
    assert not touched
    assert deploy.main(["--dataset", "tiny", "--status"]) == 0
    shown = capsys.readouterr().out
    assert "registry  champion    1" in shown
    assert "registry  ATTENTION   tiny: champion was moved by hand: it says 1, the last signed move says 2" in shown

    monkeypatch.setattr(deploy, "deploy", lambda *_: "2.0")
    assert deploy.main(["--dataset", "tiny", "--restore"]) == 0
    assert "the aliases say what the last signed move says: promotion of 2 by" in capsys.readouterr().out
    assert says() == ("2", "1")
    assert not [line for line in overview("tiny") if "ATTENTION" in line]


def test_a_promotion_puts_the_signed_champion_in_previous_not_the_one_set_by_hand(signed, artifacts, tmp_path) -> None:
    import tiny_artifact

    third = registry.create_version("tiny", tiny_artifact.write(tmp_path / "third", 7))
    client().set_registered_model_alias("tiny", CHAMPION, "1")
    registry.promote("tiny", third, PROMOTED)
    assert says() == (third, "2")


def test_a_record_that_was_changed_is_refused_and_shown(signed) -> None:
    envelope = entry(2)
    envelope["signed"]["after"] = {CHAMPION: "1", PREVIOUS: None}
    set_entry(2, json.dumps(envelope))
    for alias, version in ((CHAMPION, "1"), (PREVIOUS, None)):
        if version:
            client().set_registered_model_alias("tiny", alias, version)
        else:
            client().delete_registered_model_alias("tiny", alias)
    for verb in (registry.serving_target, registry.rollback, registry.restore, registry.standing_override):
        with pytest.raises(RegistryError, match=r"alias_move.000002 was changed after it was signed.*override"):
            verb("tiny")
    assert "alias_move.000002 was changed after it was signed" in overview("tiny")[-1]


def test_an_older_entry_put_back_is_refused(signed) -> None:
    registry.rollback("tiny")
    set_entry(4, json.dumps(entry(2)))
    client().set_registered_model_alias("tiny", CHAMPION, "2")
    client().set_registered_model_alias("tiny", PREVIOUS, "1")
    with pytest.raises(RegistryError, match=r"alias_move.000004 does not follow on the one before it"):
        registry.serving_target("tiny")


def test_an_entry_whose_past_is_gone_is_refused(signed) -> None:
    client().delete_registered_model_tag("tiny", name_of(1))
    with pytest.raises(RegistryError, match=r"alias_move.000002 does not follow on the one before it"):
        registry.serving_target("tiny")


def test_a_move_of_another_data_set_is_no_move_of_this_one(signed, artifacts) -> None:
    registry.create_version("other", artifacts[1])
    client().set_registered_model_tag("other", name_of(1), json.dumps(entry(1)))
    client().set_registered_model_alias("other", CHAMPION, "1")
    with pytest.raises(RegistryError, match=r"other: its entry alias_move.000001 is of tiny"):
        registry.serving_target("other")


def test_an_intent_that_no_key_of_ours_signed_moves_nothing(signed) -> None:
    made = alias_changes.read("tiny").last()
    assert made is not None
    forged = {
        **vars(made),
        "serial": 3,
        "link": alias_changes.read("tiny").link,
        "after": {CHAMPION: "1", PREVIOUS: None},
    }
    client().set_registered_model_tag("tiny", INTENT, Keys(("s" * 32,), "elsewhere").sign(KIND, forged))
    with pytest.raises(RegistryError, match="its tag alias_intent was signed by the key"):
        alias_changes.finish("tiny")
    assert says() == ("2", "1")


def test_an_intent_that_was_overtaken_is_dropped(signed) -> None:
    client().set_registered_model_tag("tiny", INTENT, json.dumps(entry(1)))
    assert registry.serving_target("tiny").version.version == "2"
    assert alias_changes.finish("tiny") is None
    assert says() == ("2", "1")
    assert INTENT not in client().get_registered_model("tiny").tags


def test_a_registry_from_before_moves_were_signed_says_what_to_do_and_can_be_judged_anew(two) -> None:
    client().set_registered_model_alias("tiny", CHAMPION, two[0])
    client().set_registered_model_alias("tiny", PREVIOUS, two[1])
    for verb in (registry.serving_target, registry.rollback):
        with pytest.raises(RegistryError, match=r"champion 1 stands without a signed move; judge anew .*override 1"):
            verb("tiny")
    assert "ATTENTION" in overview("tiny")[-1]
    assert registry.settle("tiny") is None
    with pytest.raises(RegistryError, match="nothing to put back"):
        registry.restore("tiny")

    registry.promote("tiny", two[0], PROMOTED)
    assert registry.serving_target("tiny").version.version == two[0]
    assert says() == (two[0], None)


def take_away(serial: int) -> None:
    client().delete_registered_model_tag("tiny", name_of(serial))


def test_a_record_that_went_back_is_not_taken_for_the_last_word(signed) -> None:
    """Signed as it is, an older state could be had again by taking the newest entries away."""
    registry.settle("tiny")
    take_away(2)
    client().set_registered_model_alias("tiny", CHAMPION, "1")
    client().delete_registered_model_alias("tiny", PREVIOUS)

    with pytest.raises(RegistryError, match=r"its entry alias_move.000002, which was seen here, is gone"):
        registry.serving_target("tiny")
    with pytest.raises(RegistryError, match="is gone"):
        registry.promote("tiny", "2", PROMOTED)
    assert "is gone" in str(overview("tiny"))

    take_away(1)
    with pytest.raises(RegistryError, match="is gone"):
        registry.settle("tiny")


def test_an_override_is_the_way_out_of_a_record_that_went_back(signed) -> None:
    take_away(2)
    registry.override("tiny", "1", "the registry was restored from last night's copy")

    assert registry.serving_target("tiny").version.version == "1"
    registry.promote("tiny", "2", PROMOTED)
    assert says() == ("2", "1")


def test_a_machine_that_saw_nothing_believes_what_is_signed(signed, tmp_path: Path, monkeypatch) -> None:
    take_away(2)
    monkeypatch.setenv("TIDEGATE_SERVER_HOME", str(tmp_path / "another machine"))
    client().set_registered_model_alias("tiny", CHAMPION, "1")
    client().delete_registered_model_alias("tiny", PREVIOUS)

    assert registry.serving_target("tiny").version.version == "1"


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_a_memory_that_cannot_be_read_is_none(signed, text: str) -> None:
    alias_changes.seen_serials_path().write_text(text)

    assert registry.settle("tiny").champion == "2"
    assert alias_changes.last_seen_serial(alias_changes.read("tiny").model) == 2


def test_a_disk_that_is_full_costs_the_memory_and_no_rollback(signed, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_bytes", full)

    registry.rollback("tiny")

    assert says() == ("1", "2")
