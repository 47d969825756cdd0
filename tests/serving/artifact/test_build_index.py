"""Which models get an index, how much of it is searched, and which candidates it gets."""

from __future__ import annotations

import pytest
import torch
from made_features import ITEMS, recipe

from config import params
from config.command import UserError
from features.vocabulary import PAD
from serving.artifact import build_index
from serving.worker import index
from training.models.base import Sizes, build


def settings(kind: str) -> params.Index:
    return params.Index(kind=kind, above=100, candidates=20, recall=0.995, requests=16)  # type: ignore[arg-type]


def test_a_large_catalog_gets_an_index_if_scores_are_products() -> None:
    sizes = Sizes(
        num_items=ITEMS + 1, content_width=3, trait_sizes=[4], context_sizes=[3], channels=["all", "half_life_1d"]
    )
    model = {name: build(recipe(name), sizes) for name in ("two_tower", "neural_cf", "reranker", "hybrid")}

    assert build_index.needs_index(settings("auto"), model["two_tower"], 101)
    assert build_index.needs_index(settings("auto"), model["reranker"], 101), "its first part retrieves"
    assert not build_index.needs_index(settings("auto"), model["two_tower"], 100)
    assert not build_index.needs_index(settings("exact"), model["two_tower"], 101)
    assert not build_index.needs_index(settings("auto"), model["neural_cf"], 101)
    assert not build_index.needs_index(settings("auto"), model["hybrid"], 101)
    with pytest.raises(UserError, match=r"the scores of neural_cf are not products of vectors"):
        build_index.needs_index(settings("faiss"), model["neural_cf"], 101)


def make_vectors(queries: int = 64, items: int = 3001, width: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and items in clusters, with very unequal directions."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.linspace(3, 0.1, width)
    centers = torch.randn(40, width, generator=generator) * scale
    items_ND = centers[torch.randint(0, 40, (items,), generator=generator)] + 0.3 * torch.randn(
        items, width, generator=generator
    )
    return torch.randn(queries, width, generator=generator) * scale.flip(0), items_ND


def recall(found: torch.Tensor, queries: torch.Tensor, items: torch.Tensor) -> float:
    """Share of the 20 highest products that were found."""
    best = (queries @ items[1:].T).topk(20, dim=1).indices + 1
    return float((found[:, :, None] == best[:, None, :]).any(dim=1).float().mean())


def test_more_probes_find_more_and_all_probes_find_everything() -> None:
    queries, items = make_vectors()
    built = build_index.build_index(queries, items, candidates=100)

    recalls = []
    for probes in (1, 4, built.num_lists):
        built.probes = probes
        recalls.append(recall(built.search(queries, 100), queries, items))

    assert built.num_lists > 16
    assert recalls[0] < recalls[1] <= recalls[2]
    assert recalls[2] == 1.0


def test_whitening_preserves_differences_of_products() -> None:
    queries, items = make_vectors()
    whitened, basis = build_index.whiten(queries, items)

    products, kept = queries @ items[1:].T, (queries @ basis) @ whitened[1:].T

    torch.testing.assert_close(kept.diff(dim=1), products.diff(dim=1), rtol=1e-3, atol=1e-3)


def test_merged_candidates_are_unique_ascending_and_marked_if_found() -> None:
    rows, found = index.merge_candidates(torch.tensor([[9, 4, PAD], [7, 2, 5]]), torch.tensor([2, 4]))

    assert rows.tolist() == [[0, 0, 2, 4, 0, 9], [0, 2, 0, 4, 5, 7]]
    assert found.tolist() == [[False, False, False, True, False, True], [False, True, False, False, True, True]]


def test_rising_and_leading_items_are_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "TRENDING", 1)
    before = torch.tensor([[99.0, 5, 1, 1, 4], [0.0, 1, 2, 3, 9]])
    now = torch.tensor([[99.0, 5, 1, 4, 4], [0.0, 7, 2, 3, 9]])

    assert index.trending_items(now, before).tolist() == [1, 3, 4], "PAD, though highest, is no item"
