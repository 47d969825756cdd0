"""What is particular to the two-tower model, and to the term that adds item trends."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from made_features import checkerboard, recipe

from training.datamodule import TrainingBatches
from training.model_factory import sizes_of
from training.models.base import ModelError, build, parse
from training.models.layers import HistoryEncoder, add_trends, pair_trends
from training.models.query import count_bucket, log_trends, time_bucket

FEATURES = checkerboard()


def test_buckets_double() -> None:
    assert count_bucket(torch.tensor([-1, 0, 1, 2, 3, 6, 7])).tolist() == [0, 1, 2, 2, 3, 3, 4]
    assert time_bucket(torch.tensor([-1, 0, 999_999, 1_000_000])).tolist() == [0, 1, 1, 2]
    assert count_bucket(torch.tensor([2**60])).item() == 31


def test_trends_are_relative_to_the_mean_item() -> None:
    counts = torch.tensor([[[0.0], [2.0], [4.0]]])  # mean 2

    expected = torch.log(torch.tensor([0.5, 2.5, 4.5]) / 2.5)
    torch.testing.assert_close(log_trends(counts)[0, 0], expected)


def test_trend_term_and_its_gradient_match_the_plain_product() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, weights = torch.randn(7, 5, generator=generator), torch.randn(7, 2, generator=generator)
    trends, moment = torch.randn(3, 2, 5, generator=generator), torch.tensor([2, 0, 1, 2, 2, 0, 0])
    scores.requires_grad_()
    weights.requires_grad_()
    plain = scores + torch.einsum("qc,qcn->qn", weights, trends[moment])
    ours = add_trends(scores, weights, trends, moment)
    slope = torch.randn(7, 5, generator=generator)

    torch.testing.assert_close(ours, plain)
    for mine, theirs in zip(
        torch.autograd.grad(ours, (scores, weights), slope),
        torch.autograd.grad(plain, (scores, weights), slope),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs)
    candidates = torch.tensor([[0, 4]]).expand(7, 2)
    torch.testing.assert_close(pair_trends(weights, trends, moment, candidates), (plain - scores)[:, [0, 4]])


def test_shared_candidates_score_as_in_the_whole_catalog() -> None:
    model = build(recipe("two_tower"), sizes_of(FEATURES)).eval()
    model.set_content(FEATURES.item_features)
    query = next(iter(TrainingBatches(FEATURES, model.channels, parse(recipe("two_tower")), 0))).query
    candidates = torch.tensor([9, 3, 30])

    torch.testing.assert_close(model.score_shared(query, candidates), model.score_all(query)[:, candidates])


def test_a_state_has_read_nothing_that_follows_it() -> None:
    torch.manual_seed(0)
    encoder = HistoryEncoder(embedding_dim=16, num_layers=2, num_heads=2, dropout=0.0).eval()
    query = next(iter(TrainingBatches(FEATURES, ("all",), parse(recipe("two_tower")), 0))).query
    table = torch.randn(len(FEATURES.vocabulary), 16)
    other = replace(query, items=torch.cat([query.items[:, :3], query.items[:, 3:].flip(0)], dim=1))

    states, changed = encoder(query, table), encoder(other, table)
    early = query.position <= 3
    torch.testing.assert_close(states[early], changed[early])
    assert not torch.allclose(states[~early], changed[~early])


@pytest.mark.parametrize("num_layers", [1, 3])
def test_one_query_per_history_reads_the_states_that_many_would(num_layers: int) -> None:
    torch.manual_seed(0)
    encoder = HistoryEncoder(embedding_dim=16, num_layers=num_layers, num_heads=2, dropout=0.0).eval()
    for block in encoder.blocks:
        torch.nn.init.normal_(block.distance.weight)
    query = next(iter(TrainingBatches(FEATURES, ("all",), parse(recipe("two_tower")), 0))).query
    rows = torch.arange(len(query.items))
    position = rows % (query.items.shape[1] + 1)  # empty histories and full ones
    one = replace(query, row=rows, position=position, time=query.time[: len(rows)])
    many = replace(one, row=rows.repeat(2), position=position.repeat(2), time=one.time.repeat(2))
    table = torch.randn(len(FEATURES.vocabulary), 16)

    assert one.one_per_history
    assert not many.one_per_history
    torch.testing.assert_close(encoder(one, table), encoder(many, table)[: len(rows)])


def test_item_content_travels_with_the_weights() -> None:
    model = build(recipe("two_tower"), sizes_of(FEATURES))
    model.set_content(FEATURES.item_features)

    assert torch.equal(model.state_dict()["content"], torch.from_numpy(FEATURES.item_features))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channels": ["window_99d"]}, "window_99d"),
        ({"embedding_dim": 15}, "embedding_dim = 15 is not a multiple of num_heads = 2"),
    ],
)
def test_it_refuses_what_cannot_be(changes: dict, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        build(recipe("two_tower", **changes), sizes_of(FEATURES))
