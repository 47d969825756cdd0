"""The stage is replaced by one process at a time, durably, and names each step of a rollout."""

from __future__ import annotations

from pathlib import Path

import pytest
from rollout_stages import PLAN, make_stage

from serving.deployment import deployment_log, rollout_stage
from serving.deployment.deployment_log import DeploymentEvent
from serving.deployment.rollout_evidence import RolloutEvidence, VersionCounts
from serving.deployment.rollout_stage import Phase, StageError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rollout" / "tiny.json"


def logged(path: Path) -> list[tuple[str, str | None, str | None]]:
    events = deployment_log.read_events(rollout_stage.log_path(path), "tiny")
    return [(event.event, event.before, event.after) for event in events]


def test_a_stage_is_replaced_only_by_a_process_that_knows_it(path: Path) -> None:
    first, second = make_stage(Phase.SHADOW), make_stage(Phase.CANARY, share=0.05, plan=PLAN)
    assert rollout_stage.replace_stage(path, None, first)
    assert not rollout_stage.replace_stage(path, None, second)
    assert rollout_stage.replace_stage(path, first, second)
    assert rollout_stage.read_stage(path) == second
    assert not rollout_stage.replace_stage(path, first, make_stage(Phase.SERVES))
    assert logged(path) == [("shadow", "1.0", "2.0"), ("canary 5%", "1.0", "2.0")]
    assert not [file for file in path.parent.iterdir() if file.name.startswith(f".{path.name}")]


def test_an_event_lost_to_a_kill_is_logged_by_the_next_process_and_half_a_line_spoils_no_other(path: Path) -> None:
    first = make_stage(Phase.SHADOW)
    rollout_stage.replace_stage(path, None, first)
    log = rollout_stage.log_path(path)
    log.write_text(log.read_text()[:40])  # killed while it wrote
    assert rollout_stage.replace_stage(path, first, make_stage(Phase.ROLLBACK))
    assert logged(path) == [("shadow", "1.0", "2.0"), ("rollback", "2.0", "1.0")]
    assert len(log.read_text().splitlines()) == 3


def test_a_deployment_that_fails_every_minute_is_logged_once(path: Path) -> None:
    for minute in range(3):
        event = DeploymentEvent(f"at {minute}", "tiny", "deploy", None, None, "no such file", "me@host", "failed")
        rollout_stage.log_event(path, event)
    assert logged(path) == [("deploy", None, None)]


def test_a_file_that_is_no_stage_is_an_error_that_names_the_file(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"phase": "sideways"}')
    with pytest.raises(StageError, match=r"tiny\.json is not the stage of a rollout; remove it and deploy again"):
        rollout_stage.read_stage(path)


def test_the_steps_are_shadow_each_share_and_the_switch() -> None:
    stage, steps = make_stage(Phase.SHADOW, plan=PLAN), []
    while stage.on_trial:
        stage = rollout_stage.next_stage(stage, rollout_stage.utc_now())
        steps.append((stage.phase, stage.share))
    assert steps == [*((Phase.CANARY, share) for share in PLAN.canary), (Phase.SWITCH, 0.0)]


def test_a_step_waits_for_its_time_its_requests_and_figures_within_the_limits() -> None:
    plan = PLAN.model_copy(update={"bake_seconds": 10.0, "min_requests": 5})
    stage = make_stage(Phase.CANARY, share=0.1, plan=plan)
    nothing = RolloutEvidence()
    assert rollout_stage.missing_for_next_step(stage, nothing, stage.since) == ["10 s", "5 more requests"]
    late = stage.since.replace(year=stage.since.year + 1)
    good = RolloutEvidence(VersionCounts(9), VersionCounts(9))
    assert rollout_stage.missing_for_next_step(stage, good, late) == []
    one_error = RolloutEvidence(VersionCounts(9), VersionCounts(9, errors=1))
    assert rollout_stage.missing_for_next_step(stage, one_error, late) == [
        "better figures: errors 1 of 9, against 0 of 9"
    ]
    text = rollout_stage.describe_next_step(stage, nothing, stage.since)
    assert text.startswith(
        "canary: 2.0 answers 5% of the users, after 10 s and 5 more requests; if it exceeds a limit, 1.0"
    )
