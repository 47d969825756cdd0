"""What is particular to neural CF: one score whichever way it is computed, pooling that never looks ahead."""

from __future__ import annotations

import torch
from made_features import checkerboard, recipe

from training.datamodule import TrainingBatches
from training.model_factory import sizes_of
from training.models import neural_cf
from training.models.base import build, parse
from training.models.neural_cf import PooledHistory

FEATURES = checkerboard()


def made() -> tuple[neural_cf.NeuralCF, TrainingBatches]:
    torch.manual_seed(0)
    model = build(recipe("neural_cf"), sizes_of(FEATURES)).eval()
    model.set_content(FEATURES.item_features)
    return model, TrainingBatches(FEATURES, model.channels, parse(recipe("neural_cf")), 0)


def test_pairs_score_as_in_the_whole_catalog() -> None:
    model, batches = made()
    query = next(iter(batches)).query
    question = torch.tensor([4, 0, 4])
    candidates = torch.tensor([[1, 2], [40, 7], [9, 9]])

    expected = model.score_all(query)[question[:, None], candidates]
    torch.testing.assert_close(model.score_pairs(query, question, candidates), expected)


def test_some_rows_match_as_among_all() -> None:
    model, _ = made()
    user = torch.randn(3, 16)
    rows = torch.tensor([7, 1, 30])

    torch.testing.assert_close(model.match(user, rows), model.match(user)[:, rows])


def test_chunks_do_not_change_scores(monkeypatch) -> None:
    model, batches = made()
    query = next(iter(batches)).query
    whole = model.score_all(query)
    monkeypatch.setattr(neural_cf, "MAX_HIDDEN_CELLS", 1)

    torch.testing.assert_close(model.score_all(query), whole)


def test_a_prefix_pools_only_what_it_has_read() -> None:
    torch.manual_seed(0)
    pooling = PooledHistory(8, 2)
    torch.nn.init.normal_(pooling.weights.weight)
    events = torch.randn(1, 5, 8)
    changed = events.clone()
    changed[:, 3:] += 1
    states, others = pooling(events), pooling(changed)

    torch.testing.assert_close(states[:, :4], others[:, :4])
    assert not torch.allclose(states[:, 4], others[:, 4])


def test_pooling_starts_as_the_mean() -> None:
    pooling = PooledHistory(8, 2)
    events = torch.randn(1, 4, 8)
    expected = pooling.out(events[:, :3].mean(dim=1))

    torch.testing.assert_close(pooling(events)[:, 3], expected)
    torch.testing.assert_close(pooling(events)[:, 0], pooling.out(torch.zeros(1, 8)))
