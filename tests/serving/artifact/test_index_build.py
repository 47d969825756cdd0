"""Which models get an index, how far it is searched, and which candidates it is given."""

from __future__ import annotations

import pytest
import torch
from made_features import ITEMS, recipe

from config import params
from config.command import UserError
from features.vocabulary import PAD
from serving.artifact import index_build
from serving.worker import index
from training.models.base import Sizes
from training.models.registry import build


def wish(kind: str) -> params.Index:
    return params.Index(kind=kind, above=100, candidates=20, recall=0.995, requests=16)  # type: ignore[arg-type]


def test_a_large_catalogue_gets_an_index_if_scores_are_products() -> None:
    sizes = Sizes(
        num_items=ITEMS + 1, content_width=3, trait_sizes=[4], context_sizes=[3], channels=["all", "half_life_1d"]
    )
    model = {name: build(recipe(name), sizes) for name in ("two_tower", "neural_cf", "reranker", "hybrid")}

    assert index_build.wanted(wish("auto"), model["two_tower"], 101)
    assert index_build.wanted(wish("auto"), model["reranker"], 101), "its first part retrieves"
    assert not index_build.wanted(wish("auto"), model["two_tower"], 100)
    assert not index_build.wanted(wish("exact"), model["two_tower"], 101)
    assert not index_build.wanted(wish("auto"), model["neural_cf"], 101)
    assert not index_build.wanted(wish("auto"), model["hybrid"], 101)
    with pytest.raises(UserError, match=r"scores of neural_cf are no products"):
        index_build.wanted(wish("faiss"), model["neural_cf"], 101)


def made(questions: int = 64, items: int = 3001, width: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Questions and items in clusters, of very unequal directions."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.linspace(3, 0.1, width)
    centres = torch.randn(40, width, generator=generator) * scale
    offered = centres[torch.randint(0, 40, (items,), generator=generator)] + 0.3 * torch.randn(
        items, width, generator=generator
    )
    return torch.randn(questions, width, generator=generator) * scale.flip(0), offered


def shares(found: torch.Tensor, asked: torch.Tensor, offered: torch.Tensor) -> float:
    """Of the 20 highest products, how many are among what was found."""
    best = (asked @ offered[1:].T).topk(20, dim=1).indices + 1
    return float((found[:, :, None] == best[:, None, :]).any(dim=1).float().mean())


def test_probing_further_finds_more_and_probing_all_finds_everything() -> None:
    asked, offered = made()
    built = index_build.build(asked, offered, candidates=100)

    found = []
    for probes in (1, 4, built.num_lists):
        built.probes = probes
        found.append(shares(built.find(asked, 100), asked, offered))

    assert built.num_lists > 16
    assert found[0] < found[1] <= found[2]
    assert found[2] == 1.0


def test_turning_keeps_the_differences_of_products() -> None:
    asked, offered = made()
    turned, basis = index_build.turn(asked, offered)

    products, kept = asked @ offered[1:].T, (asked @ basis) @ turned[1:].T

    torch.testing.assert_close(kept.diff(dim=1), products.diff(dim=1), rtol=1e-3, atol=1e-3)


def test_candidates_stand_once_and_ascend_and_say_who_found_them() -> None:
    rows, found = index.merge_candidates(torch.tensor([[9, 4, PAD], [7, 2, 5]]), torch.tensor([2, 4]))

    assert rows.tolist() == [[0, 0, 2, 4, 0, 9], [0, 2, 0, 4, 5, 7]]
    assert found.tolist() == [[False, False, False, True, False, True], [False, True, False, False, True, True]]


def test_what_rose_is_a_candidate_and_so_is_what_leads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "TRENDING", 1)
    before = torch.tensor([[99.0, 5, 1, 1, 4], [0.0, 1, 2, 3, 9]])
    now = torch.tensor([[99.0, 5, 1, 4, 4], [0.0, 7, 2, 3, 9]])

    assert index.trending_items(now, before).tolist() == [1, 3, 4], "PAD, though highest, is no item"
