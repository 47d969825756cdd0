"""What export records is what a worker will answer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks._synthetic import Size, artifact, features
from config import params
from config.paths import ROOT
from serving.worker.recommender import Recommender

SMALL = Size(users=20, items=30, events=5, width=8)


def test_golden_answers_are_computed_with_the_one_thread_of_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    answer = Recommender.recommend

    def watched(*arguments, **more):
        threads.append(torch.get_num_threads())
        return answer(*arguments, **more)

    monkeypatch.setattr(Recommender, "recommend", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        settings = params.load(ROOT / "params.yaml")
        artifact(tmp_path, features(SMALL, settings), SMALL, settings, steps=1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)

    assert len(threads) > 1
    assert set(threads) == {1}
