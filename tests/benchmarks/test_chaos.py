"""What the chaos benchmark counts as a fault, and that what it kills starts again."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from running import wait_until

from benchmarks import chaos
from benchmarks._chaos_clients import GRACE_SECONDS, Expectations, Seen
from benchmarks._killable import RestartedProcess


def seen(sent: float, version: str = "1.0", source: str = "personalized", user: str = "ann", **answer) -> Seen:
    body = {"model_version": version, "source": source, "cache": "miss", "segments": [], **answer}
    return Seen(sent, user, 200, 1, body)


@pytest.fixture
def deployed() -> Expectations:
    """Version 1 serves; a deployment of version 2 begins at 10 and succeeds at 20."""
    return Expectations([(0, frozenset({"1"})), (10, frozenset({"1", "2"})), (20, frozenset({"2"}))], {"ben": 15.0})


def test_the_former_version_may_answer_until_the_command_succeeded(deployed: Expectations) -> None:
    assert not any(deployed.is_wrong_version(seen(at, "1.0")) for at in (5, 15, 20 + GRACE_SECONDS / 2))
    assert deployed.is_wrong_version(seen(21, "1.0"))
    assert not deployed.is_wrong_version(seen(21, "2.1"))


def test_a_version_may_not_answer_before_its_deployment(deployed: Expectations) -> None:
    assert deployed.is_wrong_version(seen(5, "2.0"))


def test_a_last_answer_counts_by_its_version_and_the_edges_own_list_does_not(deployed: Expectations) -> None:
    assert deployed.is_wrong_version(seen(21, "1.0", "cached", cache="none"))
    assert not deployed.is_wrong_version(seen(21, "1.0", "popular", cache="none"))


def test_a_refusal_counts_from_its_confirmation_on(deployed: Expectations) -> None:
    assert not deployed.is_lost_refusal(seen(14, user="ben"))
    assert deployed.is_lost_refusal(seen(16, user="ben"))
    assert deployed.is_lost_refusal(seen(16, user="ben", source="popular", segments=["new"]))
    assert not deployed.is_lost_refusal(seen(16, user="ben", source="popular"))
    assert not deployed.is_lost_refusal(seen(16, user="ann"))


CLEAN = {
    "recovered": True, "commands_that_never_succeeded": [], "status_5xx": 0, "other_statuses": 0, "without_answer": 0,
    "of_a_wrong_version": 0, "personal_after_a_refusal": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in CLEAN if name not in ("recovered", "commands_that_never_succeeded")])
def test_one_fault_of_any_kind_is_a_failure(name: str) -> None:
    assert chaos.is_clean(CLEAN)
    assert not chaos.is_clean(CLEAN | {name: 1})


def test_a_platform_that_does_not_recover_or_a_command_that_never_succeeds_is_a_failure() -> None:
    assert not chaos.is_clean(CLEAN | {"recovered": False})
    assert not chaos.is_clean(CLEAN | {"commands_that_never_succeeded": ["deploy"]})


def test_a_process_that_is_killed_is_started_again_until_it_is_closed(tmp_path: Path) -> None:
    process = RestartedProcess([sys.executable, "-c", "import time; time.sleep(600)"], tmp_path / "log", os.environ)
    first = process.pid
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: process.pid != first, 30)
    process.close()
    time.sleep(0.1)
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
