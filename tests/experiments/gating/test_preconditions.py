"""What must hold before the gate looks: committed code, a clean audit, unseen events, a good index."""

from __future__ import annotations

from pathlib import Path

import pytest
from gate_policy import POLICY

from experiments.gating import preconditions
from experiments.gating.preconditions import CodeState
from training import provenance


def test_a_clone_names_its_uncommitted_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "checkout", lambda: ("0123", ["a.py", "b.py", "c.py", "d.py"]))
    assert preconditions.code_state() == CodeState("0123+changes", "a.py, b.py, c.py and 1 more", None)
    monkeypatch.setattr(provenance, "checkout", lambda: ("0123", []))
    assert preconditions.code_state() == CodeState("0123", None, None)


def test_the_reason_of_an_unknown_commit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    monkeypatch.setattr(provenance, "PROJECT", tmp_path)

    state = preconditions.code_state()

    assert state == CodeState(
        "unknown", None, "this is not a git checkout, or git does not track it, so the commit is unknown"
    )


@pytest.mark.parametrize("variables", [{"PATH": "/empty"}, {"GIT_DIR": "/empty", "PATH": ""}])
def test_a_repository_in_which_git_cannot_be_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    monkeypatch.setattr(provenance, "PROJECT", tmp_path)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert preconditions.uncommitted_code(preconditions.code_state()) is None, "an unpacked archive"

    (tmp_path / ".git").write_text("gitdir: elsewhere", encoding="utf-8")
    decision = preconditions.uncommitted_code(preconditions.code_state())
    assert decision is not None
    assert decision.verdict == "HOLD"
    assert decision.reason == "refused: git is not installed, so the commit is unknown"
    assert "--allow-uncommitted" in decision.advice


def test_a_repository_that_git_does_not_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PROJECT", tmp_path)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    (tmp_path / ".git").mkdir()
    state = preconditions.code_state()
    assert (state.commit, state.changed) == ("unknown", "unknown")
    assert preconditions.uncommitted_code(state) is not None


def test_the_environment_cannot_declare_a_commit_or_changed_code_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "checkout", lambda: ("0123", ["params.yaml"]))
    monkeypatch.setenv("TIDEGATE_COMMIT", "4567")
    assert preconditions.code_state() == CodeState("0123+changes", "params.yaml", None)
    decision = preconditions.uncommitted_code(preconditions.code_state())
    assert decision is not None
    assert (decision.verdict, decision.reason) == ("HOLD", "refused: the code has uncommitted changes: params.yaml")


@pytest.mark.parametrize("recall", [0.99, 1.0])
def test_an_index_that_finds_enough_may_serve(recall: float) -> None:
    assert preconditions.poor_index({"index": {"kind": "faiss", "recall@20": recall}}, POLICY) is None


def test_exact_scoring_needs_no_recall() -> None:
    assert preconditions.poor_index({"model": "two_tower"}, POLICY) is None


@pytest.mark.parametrize(("stated", "says"), [({"recall@20": 0.9899}, "0.9899"), ({}, "0.0000")])
def test_an_index_that_finds_less_or_states_nothing_is_rejected(stated: dict, says: str) -> None:
    decision = preconditions.poor_index({"index": {"kind": "faiss", **stated}}, POLICY)

    assert decision is not None
    assert decision.reason.startswith(
        f"its index finds {says} of the exact best 20, below gate.min_index_recall = 0.99"
    )
