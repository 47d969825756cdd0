"""The ledger: each look at a window counts, and the same question is not a second look."""

from __future__ import annotations

from pathlib import Path

from experiments.gating import judgment


def test_looks_count_per_window(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    for split_id in ("one", "one", "other", "one"):
        judgment.append(split_id, "candidate", "champion", {"date": "2026-01-01T00:00:00Z"}, path)

    assert len(judgment.entries("one", path)) == 3
    assert len(judgment.entries("other", path)) == 1
    assert judgment.entries("one", tmp_path / "none") == []


def test_an_equal_question_finds_its_report_and_another_policy_does_not(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    report = {"date": "2026-01-01T00:00:00Z", "policy_hash": "p", "verdict": "HOLD"}
    judgment.append("one", "candidate", "champion", report, path)

    assert judgment.known("one", "candidate", "champion", "p", path) == report
    for question in (("one", "candidate", "champion", "q"), ("one", "candidate", "other", "p"),
                     ("one", "other", "champion", "p"), ("two", "candidate", "champion", "p")):  # fmt: skip
        assert judgment.known(*question, path) is None
