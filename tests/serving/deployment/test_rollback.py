"""A rollback is ordered once, names the version before, and is not undone by a second one."""

from __future__ import annotations

from pathlib import Path

import pytest
from rollout_stages import PLAN, make_stage

from serving.deployment import rollback, rollout_stage
from serving.deployment.rollback import RollbackError
from serving.deployment.rollout_stage import Phase


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rollout" / "tiny.json"


def test_a_rollback_is_ordered_once_and_names_the_version_before(path: Path) -> None:
    with pytest.raises(RollbackError, match="never deployed"):
        rollback.order_rollback(path, "a test", "me")
    rollout_stage.replace_stage(path, None, make_stage(Phase.SERVES, previous=None))
    with pytest.raises(RollbackError, match=r"no version before tiny 2\.0 is loaded"):
        rollback.order_rollback(path, "a test", "me")
    canary = make_stage(Phase.CANARY, share=0.5, plan=PLAN)
    rollout_stage.replace_stage(path, rollout_stage.read_stage(path), canary)
    ordered = rollback.order_rollback(path, "it lists nonsense", "me")
    assert (ordered.phase, ordered.previous, ordered.share) == (Phase.ROLLBACK, "1.0", 0)
    assert ordered.reason == "it lists nonsense"
    assert rollback.order_rollback(path, "again", "you") == ordered == rollout_stage.read_stage(path)


def test_a_rollback_to_the_version_that_the_last_rollback_removed_needs_force(path: Path) -> None:
    stage = make_stage(Phase.SERVES, "1.0", "2.0", rollback_reason="errors 9 of 9")
    rollout_stage.replace_stage(path, None, stage)
    with pytest.raises(RollbackError, match=r"the last rollback removed 2\.0 \(errors 9 of 9\); --force"):
        rollback.order_rollback(path, "a test", "me")
    assert rollback.order_rollback(path, "a test", "me", force=True).previous == "2.0"
