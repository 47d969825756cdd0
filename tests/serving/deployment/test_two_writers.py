"""Two writers at once: no decision that returned is undone, and what a late writer sets is mended."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import pytest
import tiny_artifact
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from rollout_stages import make_stage

from serving.deployment import decisions, promotion, reconcile, registry, rollout_stage
from serving.deployment.decisions import entry_tag
from serving.deployment.errors import DecidedMeanwhileError
from serving.deployment.registry import CHAMPION, PREVIOUS, RegistryError, registry_client
from serving.deployment.rollout_stage import Phase

# Each test takes little, all of them many seconds.
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("new_host")]

PROMOTED = {"verdict": "PROMOTE", "reason": "better by 5%"}
REASON = "it shows nothing at all"


@pytest.fixture
def other_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers on several machines, between which no lock helps."""
    monkeypatch.setattr(decisions, "_only_writer", nullcontext)


def aliases() -> tuple[str | None, str | None]:
    return registry.version_number("tiny", CHAMPION), registry.version_number("tiny", PREVIOUS)


def actions() -> list[str]:
    return [decision.action for decision in decisions.read_log("tiny").history()]


def interrupt(monkeypatch: pytest.MonkeyPatch, place: object, name: str, other: Callable[[], object]) -> None:
    """Let another writer do all of its work before the first call of a function."""
    real, done = getattr(place, name), []

    def late(*arguments: object, **options: object) -> object:
        if not done:
            done.append(1)
            other()
        return real(*arguments, **options)

    monkeypatch.setattr(place, name, late)


def roll_back() -> object:
    return promotion.roll_back_aliases("tiny", "it lists nonsense")


def keep_two() -> object:
    return promotion.override("tiny", "2", REASON)


BEFORE = {
    "the aliases": (decisions, "set_aliases"),
    "an alias": (MlflowClient, "set_registered_model_alias"),
    "the entry": (decisions, "_is_as_read"),
}


@pytest.mark.parametrize("step", BEFORE)
def test_a_rollback_that_is_late_does_not_undo_an_override(
    signed, other_machine, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    interrupt(monkeypatch, *BEFORE[step], keep_two)
    with pytest.raises(DecidedMeanwhileError, match=r"somebody else decided at the same time \(override of 2"):
        roll_back()
    assert aliases() == ("2", "1")
    assert promotion.serving_target("tiny").version.version == "2"
    assert actions() == ["override", "rollback", "promotion", "promotion"], "the other one completed it first"


@pytest.mark.parametrize("step", BEFORE)
def test_a_promotion_that_is_late_does_not_undo_a_rollback(
    two, other_machine, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    promotion.promote("tiny", two[0], PROMOTED)

    def complete_and_roll_back() -> None:
        decisions.complete_decision("tiny")
        roll_back()

    interrupt(monkeypatch, *BEFORE[step], complete_and_roll_back)
    with pytest.raises(DecidedMeanwhileError):
        promotion.promote("tiny", two[1], PROMOTED)
    assert aliases() == ("1", "2")
    assert promotion.serving_target("tiny").version.version == "1"


def test_an_entry_is_never_overwritten(signed, other_machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one has decided between the look at the log and the writing of the intent."""
    written: list[str] = []

    def other() -> None:
        keep_two()
        written.append(decisions.read_log("tiny").entries[3])

    interrupt(monkeypatch, decisions, "current_user", other)
    with pytest.raises(DecidedMeanwhileError):
        roll_back()
    assert [decisions.read_log("tiny").entries[3]] == written
    assert aliases() == ("2", "1")


def test_an_alias_that_an_overtaken_writer_set_is_set_again(
    signed, other_machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its intent was overwritten, so no entry explains what it set."""

    def other() -> None:
        registry_client().delete_registered_model_tag("tiny", decisions.INTENT_TAG)
        keep_two()

    interrupt(monkeypatch, MlflowClient, "set_registered_model_alias", other)
    with pytest.raises(DecidedMeanwhileError):
        roll_back()
    assert aliases() == ("2", "1")


def test_what_a_late_writer_set_before_it_died_is_mended_by_the_next_command(signed) -> None:
    roll_back()
    registry_client().set_registered_model_alias("tiny", PREVIOUS, "1")
    registry_client().set_registered_model_alias("tiny", CHAMPION, "2")
    mended = decisions.complete_decision("tiny")
    assert mended is not None
    assert (mended.action, aliases()) == ("rollback", ("1", "2"))
    assert decisions.complete_decision("tiny") is None


def test_aliases_of_no_decision_or_of_a_damaged_log_are_not_mended(signed) -> None:
    registry_client().set_registered_model_alias("tiny", PREVIOUS, "2")
    assert decisions.complete_decision("tiny") is None
    with pytest.raises(RegistryError, match="previous was changed by hand"):
        promotion.serving_target("tiny", PREVIOUS)

    registry_client().set_registered_model_alias("tiny", CHAMPION, "1")
    registry_client().delete_registered_model_alias("tiny", PREVIOUS)  # the aliases of the first decision
    registry_client().set_registered_model_tag("tiny", entry_tag(1), "{}")
    assert decisions.complete_decision("tiny") is None
    assert aliases() == ("1", None)


def test_one_process_of_a_machine_writes_at_a_time(two, registry_folder: Path, monkeypatch) -> None:
    real, refused = decisions.set_aliases, []

    def locked(*arguments) -> bool:
        (path,) = registry_folder.rglob("*.decisions.lock")
        try:
            FileLock(path, 0).acquire()
        except Timeout:
            refused.append(path)
        return real(*arguments)

    monkeypatch.setattr(decisions, "set_aliases", locked)
    promotion.promote("tiny", two[0], PROMOTED)
    assert refused


def test_a_writer_that_hangs_does_not_prevent_a_rollback(
    signed, registry_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decisions, "LOCK_SECONDS", 0)
    (path,) = registry_folder.rglob("*.decisions.lock")
    with FileLock(path):
        roll_back()
    assert aliases() == ("1", "2")


def test_a_promotion_fails_if_somebody_rolled_back_while_its_report_was_stored(
    signed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was judged against a champion that was removed, which must not become `previous`."""
    third = registry.register_version("tiny", tiny_artifact.write(tmp_path / "third", 7))
    interrupt(monkeypatch, promotion, "store_report", roll_back)
    with pytest.raises(DecidedMeanwhileError, match="rollback of 1"):
        promotion.promote("tiny", third, PROMOTED)
    assert aliases() == ("1", "2")


def test_an_ordered_rollback_gives_way_to_a_promotion_that_lands_while_it_is_recorded(
    signed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    third = registry.register_version("tiny", tiny_artifact.write(tmp_path / "third", 7))
    log = decisions.read_log("tiny")
    since = rollout_stage.utc_now() - timedelta(seconds=1)
    order = make_stage(Phase.ROLLBACK, since=since, serial=log.last_serial, entry=log.last_hash)
    interrupt(monkeypatch, promotion, "roll_back_aliases", lambda: promotion.promote("tiny", third, PROMOTED))
    lines: list[str] = []
    reconcile._record_rollback("tiny", order, lines.append)
    assert aliases() == (third, "2")
    assert [line for line in lines if f"gives way to the newer promotion of {third}" in line]


def test_a_rollout_step_on_a_champion_that_was_removed_meanwhile_is_not_recorded(
    signed, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, decisions, "apply_decision", roll_back)
    assert promotion.record_rollout_step("tiny", make_stage(Phase.CANARY, share=0.1)) is None
    assert aliases() == ("1", "2")


def test_an_override_lands_although_an_unknown_key_signed_an_intent(signed) -> None:
    registry_client().set_registered_model_tag("tiny", decisions.INTENT_TAG, "{}")
    assert promotion.override("tiny", "1", REASON).version.version == "1"
