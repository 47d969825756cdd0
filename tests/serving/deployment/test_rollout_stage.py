"""The stage is replaced by one process at a time, durably, and names each step of a rollout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rollout_stages import PLAN, make_stage

from serving.deployment import rollout_stage
from serving.deployment.rollout_evidence import RolloutEvidence, VersionCounts
from serving.deployment.rollout_stage import Phase, RollbackError, StageError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rollout" / "tiny.json"


def logged(path: Path) -> list[tuple[str, str | None, str | None]]:
    return [(event.event, event.before, event.after) for event in rollout_stage.read_events(path)]


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
    log = path.with_suffix(".jsonl")
    log.write_text(log.read_text(encoding="utf-8")[:40], encoding="utf-8")  # killed while it wrote
    assert rollout_stage.replace_stage(path, first, make_stage(Phase.ROLLBACK))
    assert logged(path) == [("shadow", "1.0", "2.0"), ("rollback", "2.0", "1.0")]
    assert len(log.read_text(encoding="utf-8").splitlines()) == 3


def test_a_deployment_that_fails_every_minute_is_logged_once(path: Path) -> None:
    for _ in range(3):
        rollout_stage.log_failure(path, "no such file")
    assert logged(path) == [("deploy", None, None)]


def test_the_log_holds_one_json_object_per_event(path: Path) -> None:
    rollout_stage.replace_stage(path, None, make_stage(Phase.SHADOW))
    (line,) = path.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
    event = json.loads(line)
    assert list(event) == ["time", "dataset", "event", "from", "to", "reason", "by", "result"]
    assert (event["from"], event["to"], event["result"]) == ("1.0", "2.0", "begun")


def test_a_file_that_is_no_stage_is_an_error_that_names_the_file(path: Path) -> None:
    path.parent.mkdir()
    path.write_text('{"phase": "sideways"}', encoding="utf-8")
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


def test_a_rollback_is_ordered_once_and_names_the_version_before(path: Path) -> None:
    with pytest.raises(RollbackError, match="never deployed"):
        rollout_stage.order_rollback(path, "a test", "me")
    rollout_stage.replace_stage(path, None, make_stage(Phase.SERVES, previous=None))
    with pytest.raises(RollbackError, match=r"no version before tiny 2\.0 is loaded"):
        rollout_stage.order_rollback(path, "a test", "me")
    canary = make_stage(Phase.CANARY, share=0.5, plan=PLAN)
    rollout_stage.replace_stage(path, rollout_stage.read_stage(path), canary)
    ordered = rollout_stage.order_rollback(path, "it lists nonsense", "me")
    assert (ordered.phase, ordered.previous, ordered.share) == (Phase.ROLLBACK, "1.0", 0)
    assert ordered.reason == "it lists nonsense"
    assert rollout_stage.order_rollback(path, "again", "you") == ordered == rollout_stage.read_stage(path)


def test_a_rollback_to_the_version_that_the_last_rollback_removed_needs_force(path: Path) -> None:
    stage = make_stage(Phase.SERVES, "1.0", "2.0", rollback_reason="errors 9 of 9")
    rollout_stage.replace_stage(path, None, stage)
    with pytest.raises(RollbackError, match=r"the last rollback removed 2\.0 \(errors 9 of 9\); --force"):
        rollout_stage.order_rollback(path, "a test", "me")
    assert rollout_stage.order_rollback(path, "a test", "me", force=True).previous == "2.0"
