"""Aliases follow the newest signed decision; a host refuses a registry without what it has seen; a rollback bars."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import signing
import tiny_artifact
from mlflow import MlflowClient

from config import files
from serving import deploy
from serving.deployment import decisions, promotion, reconcile, registry
from serving.deployment.decisions import INTENT_TAG, entry_tag
from serving.deployment.reconcile import Deployment
from serving.deployment.registry import CHAMPION, PREVIOUS, RegistryError, registry_client
from serving.deployment.status import registry_lines
from serving.settings import ServerSettings
from serving.torchserve import server
from training.models.artifact import MANIFEST

# Each test takes little, all of them many seconds.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("new_host")]

PROMOTED = {"verdict": "PROMOTE", "reason": "better by 5%"}


def aliases() -> tuple[str | None, str | None]:
    found = (registry.version_by_alias("tiny", alias) for alias in (CHAMPION, PREVIOUS))
    champion, previous = (version.version if version else None for version in found)
    return champion, previous


def entry(serial: int) -> dict:
    return json.loads(registry_client().get_registered_model("tiny").tags[entry_tag(serial)])


def set_entry(serial: int, text: str) -> None:
    registry_client().set_registered_model_tag("tiny", entry_tag(serial), text)


def test_each_decision_records_who_when_before_after_and_why(signed) -> None:
    promotion.roll_back_aliases("tiny", "a spike of errors")
    changes = [entry(serial)["signed"] for serial in (1, 2, 3)]
    assert [change["action"] for change in changes] == ["promotion", "promotion", "rollback"]
    assert [change["after"] for change in changes] == [
        {CHAMPION: "1", PREVIOUS: None},
        {CHAMPION: "2", PREVIOUS: "1"},
        {CHAMPION: "1", PREVIOUS: "2"},
    ]
    assert [change["before"] for change in changes[1:]] == [change["after"] for change in changes[:-1]]
    assert [change["reason"] for change in changes] == ["better by 5%", "better by 5%", "a spike of errors"]
    assert all("@" in change["decided_by"] and change["decided_at"].endswith("+00:00") for change in changes)
    assert [change["removed"] for change in changes] == [None, None, changes[1]["artifact"]]
    assert INTENT_TAG not in registry_client().get_registered_model("tiny").tags


@pytest.mark.parametrize("alias", [CHAMPION, PREVIOUS])
@pytest.mark.parametrize("gone", [False, True])
def test_an_decisiond_by_hand_is_reported_with_both_versions_and_can_be_restored(
    signed, alias: str, gone: bool
) -> None:
    right = {CHAMPION: "2", PREVIOUS: "1"}[alias]
    wrong = {"2": "1", "1": "2"}[right]  # both passed the gate, so their reports alone do not reveal it
    if gone:
        registry_client().delete_registered_model_alias("tiny", alias)
    else:
        registry_client().set_registered_model_alias("tiny", alias, wrong)
    message = rf"{alias} was changed by hand: it names {'nothing' if gone else wrong}, the last signed decision names {right} "
    with pytest.raises(RegistryError, match=message) as error:
        promotion.serving_target("tiny", alias)
    assert len(str(error.value).splitlines()) == 1
    with pytest.raises(RegistryError, match="changed by hand"):
        promotion.roll_back_aliases("tiny")

    assert promotion.restore_aliases("tiny").champion == "2"
    assert aliases() == ("2", "1")
    assert promotion.serving_target("tiny", alias).version.version == right


def test_deploy_leaves_the_server_alone_if_the_champion_was_changed_by_hand(
    signed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    touched: list[object] = []
    monkeypatch.setattr(server, "start", touched.append)
    settings = ServerSettings(server_home=tmp_path / "home", state=tmp_path / "state")
    monkeypatch.setattr(deploy.environment, "load", lambda: settings)
    registry_client().set_registered_model_alias("tiny", CHAMPION, "1")

    assert deploy.main(["--dataset", "tiny"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "it names 1, the last signed decision names 2" in line
    assert not touched
    assert deploy.main(["--dataset", "tiny", "--status"]) == 0
    shown = capsys.readouterr().out
    assert "registry  champion    1" in shown
    assert (
        "registry  ATTENTION   tiny: champion was changed by hand: it names 1, the last signed decision names 2"
        in shown
    )

    monkeypatch.setattr(reconcile, "deploy", lambda *_, **__: Deployment("2.0", None, 3))
    assert deploy.main(["--dataset", "tiny", "--restore"]) == 0
    assert "restored the aliases to the last signed decision: promotion of 2 by" in capsys.readouterr().out
    assert aliases() == ("2", "1")
    assert not [line for line in registry_lines("tiny") if "ATTENTION" in line]


def test_a_promotion_makes_the_signed_champion_previous_not_the_one_set_by_hand(signed, artifacts, tmp_path) -> None:
    import tiny_artifact

    third = registry.register_version("tiny", tiny_artifact.write(tmp_path / "third", 7))
    registry_client().set_registered_model_alias("tiny", CHAMPION, "1")
    promotion.promote("tiny", third, PROMOTED)
    assert aliases() == (third, "2")


def test_a_log_that_was_tampered_with_is_refused_and_shown(signed) -> None:
    envelope = entry(2)
    envelope["signed"]["after"] = {CHAMPION: "1", PREVIOUS: None}
    set_entry(2, json.dumps(envelope))
    for alias, version in ((CHAMPION, "1"), (PREVIOUS, None)):
        if version:
            registry_client().set_registered_model_alias("tiny", alias, version)
        else:
            registry_client().delete_registered_model_alias("tiny", alias)
    for verb in (
        promotion.serving_target,
        promotion.roll_back_aliases,
        promotion.restore_aliases,
        promotion.standing_override,
    ):
        with pytest.raises(RegistryError, match=r"decision.000002 was changed after it was signed.*override"):
            verb("tiny")
    assert "decision.000002 was changed after it was signed" in registry_lines("tiny")[-1]


def test_an_older_entry_put_back_is_refused(signed) -> None:
    promotion.roll_back_aliases("tiny")
    set_entry(4, json.dumps(entry(2)))
    registry_client().set_registered_model_alias("tiny", CHAMPION, "2")
    registry_client().set_registered_model_alias("tiny", PREVIOUS, "1")
    with pytest.raises(RegistryError, match=r"decision.000004 does not follow the entry before it"):
        promotion.serving_target("tiny")


def test_an_entry_whose_predecessor_is_gone_is_refused(signed) -> None:
    registry_client().delete_registered_model_tag("tiny", entry_tag(1))
    with pytest.raises(RegistryError, match=r"decision.000002 does not follow the entry before it"):
        promotion.serving_target("tiny")


def test_a_change_of_another_dataset_is_refused(signed, artifacts) -> None:
    registry.register_version("other", artifacts[1])
    registry_client().set_registered_model_tag("other", entry_tag(1), json.dumps(entry(1)))
    registry_client().set_registered_model_alias("other", CHAMPION, "1")
    with pytest.raises(RegistryError, match=r"other: its entry decision.000001 is a promotion of tiny"):
        promotion.serving_target("other")


def test_an_intent_signed_by_an_unknown_key_changes_nothing(signed) -> None:
    change = decisions.read_log("tiny").last()
    assert change is not None
    forged = {
        **vars(change),
        "serial": 3,
        "previous_entry": decisions.read_log("tiny").last_hash,
        "after": {CHAMPION: "1", PREVIOUS: None},
    }
    registry_client().set_registered_model_tag(
        "tiny", INTENT_TAG, signing.signed(signing.STRANGER_SEED, "promotion", forged)
    )
    with pytest.raises(RegistryError, match="its tag decision_intent was signed by the key"):
        decisions.complete_decision("tiny")
    assert aliases() == ("2", "1")


def test_an_intent_that_a_later_change_replaced_is_dropped(signed) -> None:
    registry_client().set_registered_model_tag("tiny", INTENT_TAG, json.dumps(entry(1)))
    assert promotion.serving_target("tiny").version.version == "2"
    assert decisions.complete_decision("tiny") is None
    assert aliases() == ("2", "1")
    assert INTENT_TAG not in registry_client().get_registered_model("tiny").tags


def test_a_registry_without_signed_changes_says_what_to_do_and_can_be_judged(two) -> None:
    registry_client().set_registered_model_alias("tiny", CHAMPION, two[0])
    registry_client().set_registered_model_alias("tiny", PREVIOUS, two[1])
    for verb in (promotion.serving_target, promotion.roll_back_aliases):
        with pytest.raises(RegistryError, match=r"no signed decision made 1 champion; judge it .*override 1"):
            verb("tiny")
    assert "ATTENTION" in registry_lines("tiny")[-1]
    assert promotion.settle_aliases("tiny") is None
    with pytest.raises(RegistryError, match="nothing to restore"):
        promotion.restore_aliases("tiny")

    promotion.promote("tiny", two[0], PROMOTED)
    assert promotion.serving_target("tiny").version.version == two[0]
    assert aliases() == (two[0], None)


def delete_entry(serial: int) -> None:
    registry_client().delete_registered_model_tag("tiny", entry_tag(serial))


REFUSED = r"tiny: decision 2, which this host has seen, is {} in the registry: .*restore the newest backup, or accept"


def restore_first_decision() -> None:
    """Bring back the state after the first promotion, validly signed."""
    delete_entry(2)
    registry_client().set_registered_model_alias("tiny", CHAMPION, "1")
    registry_client().delete_registered_model_alias("tiny", PREVIOUS)


def test_an_older_log_is_refused_by_a_host_that_has_seen_a_newer_one(signed) -> None:
    restore_first_decision()

    for verb in (promotion.serving_target, promotion.settle_aliases, promotion.roll_back_aliases):
        with pytest.raises(RegistryError, match=REFUSED.format("gone")) as error:
            verb("tiny")
        assert len(str(error.value).splitlines()) == 1
    with pytest.raises(RegistryError, match="is gone"):
        promotion.promote("tiny", "2", PROMOTED)
    assert "is gone" in str(registry_lines("tiny"))


def test_a_log_with_the_same_serials_but_another_entry_is_refused(signed, tmp_path: Path, monkeypatch) -> None:
    restore_first_decision()
    with monkeypatch.context() as elsewhere:  # decided by a host that saw only the restored state
        elsewhere.setenv("TIDEGATE_STATE", str(tmp_path / "another host"))
        promotion.promote("tiny", "2", PROMOTED)

    assert decisions.read_log("tiny").last_serial == 2
    with pytest.raises(RegistryError, match=REFUSED.format("another one")):
        promotion.serving_target("tiny")


def test_a_model_that_was_deleted_and_made_anew_is_refused(signed, artifacts, tmp_path: Path, monkeypatch) -> None:
    registry_client().delete_registered_model("tiny")
    with pytest.raises(RegistryError, match=REFUSED.format("gone")):
        promotion.settle_aliases("tiny")
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TIDEGATE_STATE", str(tmp_path / "another host"))
        promotion.promote("tiny", registry.register_version("tiny", artifacts[2]), PROMOTED)
    with pytest.raises(RegistryError, match=REFUSED.format("gone")):
        promotion.serving_target("tiny")

    promotion.override("tiny", "1", "the registry was made anew on purpose")
    assert promotion.serving_target("tiny").version.version == "1"


def test_a_bar_is_not_lost_by_changing_its_entry(two) -> None:
    """The newest entry proves the one before it, and so on: no entry further back can be changed or removed."""
    version = removed_by_rollback(two)
    promotion.override("tiny", version, "the other one is worse")
    promotion.override("tiny", "1", "they are both as bad")
    envelope = entry(3)
    envelope["signed"]["removed"] = None
    set_entry(3, json.dumps(envelope))
    for report in (PROMOTED, PROMOTED | {"holdout_end": "2999-01-01T00:00:00Z"}):
        with pytest.raises(
            RegistryError, match=r"decision.000003 was changed or removed after the next one was signed"
        ):
            promotion.promote("tiny", version, report)


@pytest.mark.parametrize(
    ("is_copy", "message"),
    [
        (False, r"decision.000004 was signed by the operator key \w+, which may not sign a promotion; .*override"),
        (True, r"decision.000004 does not follow the entry before it; .*override"),
    ],
)
def test_an_operator_cannot_lift_a_bar_by_a_promotion_in_the_middle_of_the_log(
    two, is_copy: bool, message: str
) -> None:
    version = removed_by_rollback(two)
    promotion_entry, newest = entry(2)["signed"], entry(3)["signed"]
    facts = {"serial": 4, "previous_entry": decisions.read_log("tiny").last_hash}
    forged = signing.signed(signing.OPERATOR_SEED, "promotion", promotion_entry | facts)
    set_entry(4, registry_client().get_registered_model("tiny").tags[entry_tag(2)] if is_copy else forged)
    facts = {"serial": 5, "previous_entry": decisions.read_log("tiny").last_hash, "removed": None}
    set_entry(5, signing.signed(signing.OPERATOR_SEED, "rollback", newest | facts))
    assert decisions.read_log("tiny").last().serial == 5, "the operator may sign the newest"
    with pytest.raises(RegistryError, match=message):
        promotion.promote("tiny", version, PROMOTED | {"holdout_end": "2026-01-01T00:00:00Z"})


def test_entries_of_a_forgotten_key_are_refused_until_an_override_accepts_the_log(two, monkeypatch) -> None:
    own = [signing.line("gate", signing.GATE_SEED), signing.line("operator", signing.OPERATOR_SEED)]
    with monkeypatch.context() as before:
        before.setenv("TIDEGATE_TRUSTED_KEYS", "\n".join([*own, signing.line("gate", signing.STRANGER_SEED)]))
        with before.context() as replaced:
            replaced.setenv("TIDEGATE_GATE_KEY", signing.pem(signing.STRANGER_SEED))
            promotion.promote("tiny", two[0], PROMOTED)
        promotion.promote("tiny", two[1], PROMOTED)
    monkeypatch.setenv("TIDEGATE_TRUSTED_KEYS", "\n".join(own))
    with pytest.raises(RegistryError, match=r"decision.000001 was signed by the key .* only an override helps"):
        promotion.promote("tiny", two[0], PROMOTED)
    promotion.override("tiny", two[1], "its key was stolen")
    promotion.promote("tiny", two[0], PROMOTED)
    assert [decision.serial for decision in decisions.read_log("tiny").history()] == [4, 3, 2]
    assert aliases() == two


def test_an_override_accepts_an_older_log(signed) -> None:
    delete_entry(2)
    promotion.override("tiny", "1", "the registry was restored from last night's copy")

    assert promotion.serving_target("tiny").version.version == "1"
    promotion.promote("tiny", "2", PROMOTED)
    assert aliases() == ("2", "1")


def test_an_override_that_fails_accepts_nothing(signed, monkeypatch: pytest.MonkeyPatch) -> None:
    restore_first_decision()

    def away(*_: object) -> None:
        raise OSError("no connection")

    for name in ("set_registered_model_tag", "set_registered_model_alias"):  # its intent, its aliases
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, name, away)
            with pytest.raises(RegistryError, match="no connection"):
                promotion.override("tiny", "2", "the registry was restored from last night's copy")
        with pytest.raises(RegistryError, match=REFUSED.format("gone")):
            promotion.serving_target("tiny")
    promotion.override("tiny", "2", "the registry was restored from last night's copy")
    assert promotion.serving_target("tiny").version.version == "2"


@pytest.mark.parametrize("letter", ["a", "ß", "日", "😀", '"', "\n"])
def test_a_long_reason_is_shortened_so_that_mlflow_can_store_it_in_any_script(signed, letter: str) -> None:
    promotion.roll_back_aliases("tiny", "it fails: " + 3000 * letter)
    text = registry_client().get_registered_model("tiny").tags[entry_tag(3)]
    assert len(text) < 2500, "MLflow limits a tag to 5000 characters"
    assert entry(3)["signed"]["reason"].startswith(f"it fails: {letter * 50}")


def test_a_host_that_has_seen_nothing_accepts_what_is_signed(signed, tmp_path: Path, monkeypatch) -> None:
    delete_entry(2)
    monkeypatch.setenv("TIDEGATE_STATE", str(tmp_path / "another host"))
    registry_client().set_registered_model_alias("tiny", CHAMPION, "1")
    registry_client().delete_registered_model_alias("tiny", PREVIOUS)

    assert promotion.serving_target("tiny").version.version == "1"


@pytest.mark.parametrize("text", ["", "{"])
def test_a_memory_that_cannot_be_read_counts_as_empty(signed, text: str) -> None:
    decisions.memory_path().write_text(text, encoding="utf-8")

    assert promotion.settle_aliases("tiny").champion == "2"
    log = decisions.read_log("tiny")
    assert json.loads(decisions.memory_path().read_text(encoding="utf-8")) == {log.key: [2, log.last_hash]}


def test_a_full_disk_does_not_prevent_a_rollback(signed, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_bytes", full)

    promotion.roll_back_aliases("tiny")

    assert aliases() == ("1", "2")


def removed_by_rollback(two: tuple[str, str], holdout_end: str | None = "2026-01-01T00:00:00Z") -> str:
    """Version 2, promoted on events until `holdout_end`, then rolled back from."""
    promotion.promote("tiny", two[0], PROMOTED)
    promotion.promote("tiny", two[1], PROMOTED | {"holdout_end": holdout_end})
    promotion.roll_back_aliases("tiny", "it lists nonsense")
    return two[1]


BARRED = (
    r"tiny 2: rolled back on 20.* by .*\(it lists nonsense\); it needs evidence on events after 2026-01-01T00:00:00"
)


@pytest.mark.parametrize("holdout_end", ["2026-01-01T00:00:00Z", "2025-12-31T23:59:59Z", None])
def test_a_version_that_was_rolled_back_is_not_promoted_on_the_same_events(two, holdout_end: str | None) -> None:
    version = removed_by_rollback(two)
    with pytest.raises(RegistryError, match=BARRED):
        promotion.promote("tiny", version, PROMOTED | {"holdout_end": holdout_end})
    assert aliases() == ("1", "2")


def test_later_events_lift_the_bar_of_a_rollback(two) -> None:
    version = removed_by_rollback(two)
    promotion.promote("tiny", version, PROMOTED | {"holdout_end": "2026-01-01T00:00:01Z"})
    assert aliases() == ("2", "1")


def test_an_explicit_decision_lifts_the_bar_and_is_recorded(two) -> None:
    version = removed_by_rollback(two)
    promotion.promote("tiny", version, PROMOTED | {"again": "the store was at fault, not the model"})
    assert aliases() == ("2", "1")
    assert entry(4)["signed"]["reason"].startswith("again: the store was at fault, not the model; ")


def test_the_bar_holds_for_the_artifact_under_another_number(two, artifacts) -> None:
    removed_by_rollback(two)
    registry_client().delete_registered_model_alias("tiny", PREVIOUS)
    registry_client().delete_model_version("tiny", "2")
    again = registry.register_version("tiny", artifacts[2])
    assert again == "3"
    with pytest.raises(RegistryError, match="tiny 3: rolled back on"):
        promotion.promote("tiny", again, PROMOTED)


SAME = {"params": {"name": "item_knn", "shrinkage": 1}, "dataset_hash": "d", "split_id": "s", "fit_until_us": 1}


@pytest.mark.parametrize(
    ("removed", "candidate", "is_barred"),
    [
        ({"run_id": "1", "commit": "a"}, {"run_id": "2", "commit": "b"}, True),  # without parameters: the same files
        (SAME | {"run_id": "1", "seed": 1}, SAME | {"run_id": "2", "seed": 2, "files": {}}, True),  # fitted again
        (SAME, SAME | {"params": {"name": "item_knn", "shrinkage": 2}}, False),
        (SAME, SAME | {"fit_until_us": 2}, False),
    ],
)
def test_the_bar_holds_for_the_same_model_fitted_or_exported_again_and_for_no_other(
    two, artifacts, tmp_path: Path, removed: dict, candidate: dict, is_barred: bool
) -> None:
    versions = []
    for name, stated in (("removed", removed), ("candidate", candidate)):
        folder = shutil.copytree(artifacts[2], tmp_path / name)
        if stated.get("files") == {}:  # nearly equal weights
            tiny_artifact.write(tmp_path / "nearly", 7)
            folder = tmp_path / "nearly"
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        stated = {key: value for key, value in stated.items() if key != "files"}
        (folder / MANIFEST).write_text(json.dumps(manifest | stated), encoding="utf-8")
        versions.append(registry.register_version("tiny", folder))
    report = PROMOTED | {"holdout_end": "2026-01-01T00:00:00Z"}
    promotion.promote("tiny", two[0], PROMOTED)
    promotion.promote("tiny", versions[0], report)
    promotion.roll_back_aliases("tiny", "it lists nonsense")
    if not is_barred:
        promotion.promote("tiny", versions[1], report)
        return
    with pytest.raises(RegistryError, match=f"tiny {versions[1]}: rolled back on "):
        promotion.promote("tiny", versions[1], report)
    promotion.promote("tiny", versions[1], PROMOTED | {"holdout_end": "2026-01-01T00:00:01Z"})


def test_a_barred_version_may_be_overridden_and_stays_barred(two) -> None:
    version = removed_by_rollback(two)
    promotion.override("tiny", version, "the other one is worse")
    assert promotion.serving_target("tiny").version.version == version
    with pytest.raises(RegistryError, match=BARRED):
        promotion.promote("tiny", version, PROMOTED | {"holdout_end": "2026-01-01T00:00:00Z"})


def test_a_version_that_only_an_override_made_champion_needs_events_after_its_rollback(two) -> None:
    promotion.promote("tiny", two[0], PROMOTED)
    promotion.override("tiny", two[1], "the champion shows nothing")
    promotion.roll_back_aliases("tiny")
    with pytest.raises(RegistryError, match="it needs evidence on events after 20"):
        promotion.promote("tiny", two[1], PROMOTED | {"holdout_end": "2026-01-01T00:00:00Z"})
    promotion.promote("tiny", two[1], PROMOTED | {"holdout_end": "2999-01-01T00:00:00Z"})
