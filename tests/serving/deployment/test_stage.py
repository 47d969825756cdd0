"""The stage is moved by one at a time, on the disk, and leaves a history that no kill tears."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from config import params
from config.paths import ROOT
from serving.deployment import deployment_log, rollback, rollout_stage
from serving.deployment.deployment_log import Entry
from serving.deployment.rollback import RollbackError
from serving.deployment.rollout_evidence import Evidence, Side
from serving.deployment.rollout_stage import Phase, Stage, StageError

PLAN = params.load(ROOT / "params.yaml").rollout


def made(phase: Phase, version: str = "2.0", previous: str | None = "1.0", **more) -> Stage:
    return Stage(
        dataset="tiny",
        phase=phase,
        version=version,
        previous=previous,
        since=rollout_stage.now(),
        why="w",
        by="me@h",
        **more,
    )


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "rollout" / "tiny.json"


def lines(place: Path) -> list[tuple[str, str | None, str | None]]:
    found = deployment_log.entries(place.with_suffix(rollout_stage.HISTORY), "tiny")
    return [(one.what, one.before, one.after) for one in found]


def test_a_stage_is_replaced_only_by_who_knows_it(place: Path) -> None:
    first, second = made(Phase.SHADOW), made(Phase.CANARY, share=0.05, plan=PLAN)
    assert rollout_stage.move(place, None, first)
    assert not rollout_stage.move(place, None, second)
    assert rollout_stage.move(place, first, second)
    assert rollout_stage.read(place) == second
    assert not rollout_stage.move(place, first, made(Phase.SERVES))
    assert lines(place) == [("shadow", "1.0", "2.0"), ("canary 5%", "1.0", "2.0")]
    assert not [path for path in place.parent.iterdir() if path.name.startswith(f".{place.name}")]


def test_a_line_that_a_kill_cost_is_made_good_and_half_a_line_spoils_no_other(place: Path) -> None:
    first = made(Phase.SHADOW)
    rollout_stage.move(place, None, first)
    log = place.with_suffix(rollout_stage.HISTORY)
    log.write_text(log.read_text()[:40])  # killed while it wrote
    assert rollout_stage.move(place, first, made(Phase.BACK))
    assert lines(place) == [("shadow", "1.0", "2.0"), ("rollback", "2.0", "1.0")]
    assert len(log.read_text().splitlines()) == 3


def test_a_deployment_that_fails_every_minute_is_told_once(place: Path) -> None:
    for minute in range(3):
        rollout_stage.note(place, Entry(f"at {minute}", "tiny", "deploy", None, None, "no such file", "me@h", "failed"))
    assert lines(place) == [("deploy", None, None)]


def test_a_stage_that_is_none_is_an_error_that_names_the_file(place: Path) -> None:
    place.parent.mkdir()
    place.write_text('{"phase": "sideways"}')
    with pytest.raises(StageError, match=r"tiny\.json is no stage of a rollout; remove it and deploy"):
        rollout_stage.read(place)


def test_a_rollback_is_ordered_once_and_names_the_version_before(place: Path) -> None:
    with pytest.raises(RollbackError, match="never deployed"):
        rollback.order(place, "w", "me")
    rollout_stage.move(place, None, made(Phase.SERVES, previous=None))
    with pytest.raises(RollbackError, match=r"no version before tiny 2\.0 is loaded"):
        rollback.order(place, "w", "me")
    rollout_stage.move(place, rollout_stage.read(place), made(Phase.CANARY, share=0.5, plan=PLAN))
    ordered = rollback.order(place, "it lists nonsense", "me")
    assert (ordered.phase, ordered.previous, ordered.share, ordered.why) == (Phase.BACK, "1.0", 0, "it lists nonsense")
    assert rollback.order(place, "again", "you") == ordered == rollout_stage.read(place)


def test_a_rollback_of_a_rollback_wants_a_second_word(place: Path) -> None:
    rollout_stage.move(place, None, made(Phase.SERVES, "1.0", "2.0", undone="errors 9 of 9"))
    with pytest.raises(RollbackError, match=r"2\.0 is what the last rollback went away from \(errors 9 of 9\)"):
        rollback.order(place, "w", "me")
    assert rollback.order(place, "w", "me", force=True).previous == "2.0"


def test_the_steps_are_shadow_each_share_and_the_switch() -> None:
    one, steps = made(Phase.SHADOW, plan=PLAN), []
    while one.tried:
        one = rollout_stage.following(one, rollout_stage.now())
        steps.append((one.phase, one.share))
    assert steps == [*((Phase.CANARY, share) for share in PLAN.canary), (Phase.SWITCH, 0.0)]


def test_a_step_waits_for_its_time_its_requests_and_figures_within_the_limits() -> None:
    plan = PLAN.model_copy(update={"bake_seconds": 10.0, "min_requests": 5})
    one = made(Phase.CANARY, share=0.1, plan=plan)
    nothing = Evidence()
    assert rollout_stage.waits_for(one, nothing, one.since) == ["10 s", "5 more requests"]
    late = one.since.replace(year=one.since.year + 1)
    good = Evidence(Side(9), Side(9))
    assert rollout_stage.waits_for(one, good, late) == []
    assert rollout_stage.waits_for(one, Evidence(Side(9), Side(9, errors=1)), late) == [
        "better figures: errors 1 of 9, against 0 of 9"
    ]
    told = rollout_stage.comes_next(one, nothing, one.since)
    assert told.startswith("canary: 2.0 answers 5% of the users, after 10 s and 5 more requests; beyond a limit 1.0")


def test_the_history_reads_as_a_table(place: Path) -> None:
    rollout_stage.move(place, None, made(Phase.SHADOW))
    told = deployment_log.render(deployment_log.entries(place.with_suffix(rollout_stage.HISTORY), "tiny")).splitlines()
    assert told[0].split() == ["when", "(UTC)", "what", "from", "to", "result", "by", "why"]
    assert told[1].split()[2:] == ["shadow", "1.0", "2.0", "begun", "me@h", "w"]
    keys = json.loads(place.with_suffix(rollout_stage.HISTORY).read_text())
    assert list(keys) == ["time", "dataset", "what", "from", "to", "why", "by", "result"]
