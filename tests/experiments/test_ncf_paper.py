"""The command combines the branches by held-out pairs, and writes what it prints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from paper_files import written

from experiments import ncf_paper
from experiments.papers.protocol import EvaluatedFit

BY_HISTORY = ncf_paper.BY_HISTORY | {
    "embedding_dim": 16,
    "hidden_dim": 8,
    "num_negatives": 60,
    "batch_size": 16,
    "learning_rate": 0.01,
}
BY_ID = ncf_paper.DEEP | {"embedding_dim": 16, "hidden_dim": 8, "batch_size": 30, "learning_rate": 0.05}


def test_weights_are_the_best_on_the_held_out_pairs() -> None:
    right, wrong = torch.zeros(4, 20), torch.zeros(4, 20)
    right[:, 0], wrong[:, 0] = 0.5, -0.1
    scores = {"dot_product": wrong, "deep": right, "by_history": wrong}
    branches = {name: EvaluatedFit(held, held, [0.0, 0.0], 1, 1.0) for name, held in scores.items()}
    weights, whole = ncf_paper.best_sum(branches)

    assert weights["deep"] >= 0.3
    assert whole.held_out == [1.0, 1.0]
    assert whole.seconds == 3


def test_the_command_writes_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ncf_paper, "BY_HISTORY", BY_HISTORY)
    monkeypatch.setattr(ncf_paper, "DOT_PRODUCT", BY_ID)
    monkeypatch.setattr(ncf_paper, "DEEP", BY_ID)
    pairs = [(user, item) for user in range(3) for item in range(3, 6)]
    negatives = ["(0,2)\t0\t1", "(1,0)\t1\t2", "(2,1)\t0\t2"]
    positives = ["0\t2\t5\t9", "1\t0\t3\t9", "2\t1\t4\t9"]
    data = written(tmp_path, pairs, positives, negatives)

    assert ncf_paper.main(["--data", str(data), "--epochs", "1", "--results", str(tmp_path / "r")]) == 0
    result = json.loads((tmp_path / "r" / "ncf-ml-1m.json").read_text())
    printed = capsys.readouterr().out
    for name in ("neural_cf", "dot_product", "by_history"):
        assert f"{result['models'][name]['metrics']['ndcg@10']['mean']:.4f}" in printed
    for name in ("command", "commit", "date", "dataset_hash", "params", "published"):
        assert result[name], name
    assert "0.730" in printed
    assert "0.452" in printed


def test_a_folder_without_the_files_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ncf_paper.main(["--data", str(tmp_path)]) == 2

    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
