"""No training question sees what it could not have known, and each is asked exactly once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_features import START, checkerboard, recipe

from data.columns import DAY, HOUR
from features.sequences import Log
from training.datamodule import Windows
from training.windows import Timeline, cut_rows


def log(times: list[int], known: list[int] | None = None) -> Log:
    """One user's events, items 1, 2, ..., at hours."""
    hours = np.array(times, dtype=np.int64) * HOUR
    late = hours if known is None else np.array(known, dtype=np.int64) * HOUR
    items = np.arange(1, len(times) + 1)
    return Log(np.array([0, len(times)]), items, hours, late, np.zeros((len(times), 0), int), np.zeros((1, 0), int))


def test_events_of_one_time_share_a_question_and_never_see_one_another() -> None:
    asked = Timeline(log([1, 2, 2, 2, 5])).next_item_questions()

    assert asked.visible.tolist() == [0, 1, 4]
    assert list(zip(asked.first.tolist(), asked.stop.tolist(), strict=True)) == [(0, 1), (1, 4), (4, 5)]


def test_an_event_hides_what_follows_it_until_it_is_known() -> None:
    asked = Timeline(log([1, 2, 3, 4], known=[1, 3, 3, 4])).next_item_questions()

    assert asked.visible.tolist() == [0, 1, 2, 3]  # known at 3 is known to a question of 3
    late = Timeline(log([1, 2, 3, 9], known=[1, 8, 3, 9])).next_item_questions()
    assert late.visible.tolist() == [0, 1, 1, 3]


def test_tied_events_become_visible_together() -> None:
    asked = Timeline(log([1, 1, 5, 9], known=[1, 7, 5, 9])).next_item_questions()

    assert asked.visible.tolist() == [0, 0, 3]


def test_a_stale_question_sees_only_what_lay_before_and_wants_all_of_its_window() -> None:
    timeline = Timeline(log([0, 24, 48, 24 * 40]))
    moments = np.random.default_rng(0).integers(0, 40 * DAY, size=150)
    asked = timeline.horizon_questions(np.zeros(150, dtype=np.int64), moments, 10)

    for place in range(len(asked)):
        moment = asked.time[place]
        wanted = (timeline.times >= moment) & (timeline.times < moment + 10 * DAY)
        assert np.flatnonzero(wanted).tolist() == list(range(asked.first[place], asked.stop[place]))
        assert asked.visible[place] == (timeline.times < moment).sum()


@pytest.mark.parametrize("max_history", [4, 7, 50])
def test_every_question_finds_its_history_in_its_row(max_history: int) -> None:
    timeline = Timeline(checkerboard().log)
    asked = timeline.next_item_questions()
    rows = cut_rows(timeline, asked, max_history, np.random.default_rng(0))

    assert rows.length.max() <= max_history
    begin = rows.begin[rows.of_question]
    start = timeline.offsets[asked.user]
    np.testing.assert_array_equal(begin + rows.position, start + asked.visible)
    assert (begin >= start).all()
    assert (rows.position <= rows.length[rows.of_question]).all()
    assert (rows.position >= np.minimum(asked.visible, max_history // 4)).all()


@pytest.fixture(scope="module")
def windows() -> Windows:
    settings = recipe("two_tower", horizon_samples=2)
    return Windows(checkerboard(), tuple(settings["channels"]), settings, seed=0)


def test_an_epoch_foretells_every_event_before_the_cut_once(windows: Windows) -> None:
    settings = replace_weight(windows, 0.0)
    targets = np.concatenate([batch.item.numpy() for batch in settings])

    assert sorted(targets) == sorted(windows.timeline.items)


def replace_weight(windows: Windows, weight: float) -> Windows:
    return Windows(checkerboard(), ("all",), windows.params | {"horizon_weight": weight}, seed=0)


def test_no_batch_shows_an_event_at_or_after_the_asked_time(windows: Windows) -> None:
    batches = list(windows)

    assert batches
    for batch in batches:
        query = batch.query
        for place in range(len(query)):
            shown = query.item_times[query.row[place], : query.position[place]]
            assert (shown < query.time[place]).all()
            assert (shown > 0).all()
        moments = windows.table.moments[query.moment.numpy()]
        assert (moments <= query.time.numpy()).all()
        assert (query.time.numpy() < START + 30 * DAY).all()
        history = set(zip(*(part.tolist() for part in batch.seen), strict=True))
        assert not history & set(zip(batch.question.tolist(), batch.item.tolist(), strict=True))


def test_weights_of_a_batch_are_split_between_the_two_targets(windows: Windows) -> None:
    batches = list(windows)

    assert batches
    for batch in batches:
        assert batch.weight.sum().item() == pytest.approx(1, abs=0.21)  # less where a batch has no stale question


def test_trends_that_training_reads_hold_nothing_of_the_asked_time() -> None:
    features = checkerboard()
    settings = recipe("two_tower")
    table = Windows(features, ("all",), settings, seed=0).table
    changed = replace(
        features,
        log=replace(features.log, items=np.where(features.log.times >= START + 20 * DAY, 1, features.log.items)),
    )
    other = Windows(changed, ("all",), settings, seed=0).table
    early = table.moments <= START + 20 * DAY

    np.testing.assert_array_equal(table.moments, other.moments)
    np.testing.assert_array_equal(table.values[early].numpy(), other.values[early].numpy())
    assert not np.array_equal(table.values[~early].numpy(), other.values[~early].numpy())
