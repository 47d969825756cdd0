"""What is particular to SASRec: it reads the order of the items, and of a row nothing that lies ahead."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from made_features import ITEMS, START, USERS, checkerboard, recipe, train_settings
from torch.nn import functional

from data.columns import DAY, HOUR
from features.encode import Batch, make_batch
from training.datamodule import TrainingBatches
from training.fitting import fit
from training.model_factory import sizes_of
from training.models.base import build, parse
from training.models.query import Query
from training.models.ranking import exclude
from training.models.sasrec import SASRec

FEATURES = checkerboard()
NOW = START + 31 * DAY


def made(**changes: object) -> SASRec:
    torch.manual_seed(0)
    model = build(parse(recipe("sasrec")).model_copy(update=changes), sizes_of(FEATURES)).eval()
    assert isinstance(model, SASRec)
    return model


def batch_of(histories: list[list[int]]) -> Batch:
    """Item rows, one event an hour; item row i was taken i times."""
    lengths = np.array([len(history) for history in histories])
    times = np.concatenate([NOW - HOUR * np.arange(length, 0, -1) for length in lengths])
    nothing = np.zeros((len(histories), 0))
    return make_batch(
        np.concatenate([np.array(history, dtype=np.int64) for history in histories]), times, lengths,
        np.full(len(histories), NOW), nothing, nothing, np.arange(ITEMS + 1, dtype=np.float32)[None, :, None],
        np.zeros(len(histories)), 8,
    )  # fmt: skip


def test_without_blocks_it_is_the_product_of_the_newest_item_and_position() -> None:
    model = made(num_layers=0, embedding_dim=16)
    items, positions = model.items.weight, model.positions.weight

    scores = model.scores(batch_of([[7, 3, 5], [9]]))

    for row, newest in enumerate([5, 9]):
        state = functional.layer_norm(4 * items[newest] + positions[0], [16])  # sqrt(16), and no event is newer
        torch.testing.assert_close(scores[row], items @ state)


def test_positions_are_counted_from_the_newest_event_that_a_query_sees() -> None:
    model = made(num_layers=0, embedding_dim=16)
    query = Query.of(batch_of([[7, 3, 5]]))
    query.row, query.position = torch.tensor([0, 0]), torch.tensor([1, 2])  # as in training, where the row goes on
    query.time = query.time.repeat(2)

    events = 4 * model.items.weight[[7, 3]] + model.positions.weight[[1, 0]]
    torch.testing.assert_close(model.states(query), functional.layer_norm(events, [16]))


def test_a_state_has_read_no_item_that_follows_it() -> None:
    model = made(num_layers=2)
    query = next(iter(TrainingBatches(FEATURES, model.channels, model.hyperparameters, 0))).query
    other = replace(query, items=torch.cat([query.items[:, :3], query.items[:, 3:].flip(0)], dim=1))

    states, changed = model.states(query), model.states(other)
    early = query.position <= 3
    torch.testing.assert_close(states[early], changed[early])
    assert not torch.allclose(states[~early], changed[~early])


def test_one_query_per_history_reads_the_states_that_many_would() -> None:
    model = made(num_layers=2)
    one = Query.of(batch_of([[7, 3, 5], [9], [], [4, 2]]))
    many = replace(one, row=one.row.repeat(2), position=one.position.repeat(2), time=one.time.repeat(2))

    assert one.one_per_history
    torch.testing.assert_close(model.states(one), model.states(many)[:4])


def test_an_empty_history_is_ranked_for_by_popularity() -> None:
    scores = made().scores(batch_of([[], [4, 2]]))

    assert scores[0].argsort(descending=True).tolist() == list(range(ITEMS, -1, -1))
    assert scores[1].argsort(descending=True).tolist() != list(range(ITEMS, -1, -1))


def test_it_reads_neither_times_nor_traits_nor_context_nor_content() -> None:
    model = made()
    model.set_content(FEATURES.item_features)
    query = next(iter(TrainingBatches(FEATURES, model.channels, model.hyperparameters, 0))).query
    other = replace(query, item_times=query.item_times * 3, time=query.time + DAY, traits=query.traits * 0,
                    context=query.context * 0, length=query.length + 9)  # fmt: skip

    assert torch.equal(model.score_all(other), model.score_all(query))
    assert "content" not in {name for name, values in model.state_dict().items() if values.numel()}
    assert not model.personalizes_cold_users()


def test_it_is_trained_on_the_next_event_alone() -> None:
    shipped = recipe("sasrec")
    query = next(iter(TrainingBatches(FEATURES, ("all",), parse(shipped), 0))).query

    assert shipped["horizon_weight"] == shipped["horizon_samples"] == 0
    assert torch.isin(query.time, torch.from_numpy(FEATURES.past.times)).all()


def test_it_learns_a_cycle_in_which_each_item_follows_the_one_before() -> None:
    first = np.random.default_rng(0).integers(0, ITEMS, USERS)
    walked = 1 + (first[:, None] + np.arange(12)) % ITEMS
    features = checkerboard(cut="test", ties=False)
    times = (START + 2 * DAY * np.arange(12) + HOUR * first[:, None]).ravel()
    features.log = replace(features.log, items=walked.ravel(), times=times, known=times)

    taken = {"best_steps": 200, "train_events": walked.size}
    model = fit(recipe("sasrec") | taken, features, train_settings(), seed=0).model.eval()

    batch = batch_of([[1 + (start + step) % ITEMS for step in range(5)] for start in range(ITEMS)])
    with torch.inference_mode():
        top = exclude(model.scores(batch), batch.seen)[:, 1:].argmax(dim=1)
    follows = [(start + 5) % ITEMS for start in range(ITEMS)]
    assert top.tolist() == follows
