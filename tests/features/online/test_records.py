"""The store's trends are those of `features.trends`, by item id."""

from __future__ import annotations

import numpy as np
import pytest

from data.columns import DAY, HOUR
from features.online.errors import NewerRecord, RecordError
from features.online.records import ItemTrends
from features.trends import TrendLog
from features.vocabulary import Vocabulary

T = 1_700_000_000_000_000
CHANNELS = ["all", "window_3d", "half_life_1d"]


def made(items: int = 6) -> tuple[TrendLog, Vocabulary]:
    generator = np.random.default_rng(0)
    times = T + generator.integers(0, 200, 400) * HOUR
    rows = generator.integers(0, items + 1, 400)
    return TrendLog(rows, times, times, items + 1), Vocabulary([f"i\n{number}" for number in range(items)])


def test_they_are_the_numbers_of_the_log_as_of_the_moment_after_storing_too() -> None:
    log, vocabulary = made()
    moment = T + 5 * DAY
    trends = ItemTrends.from_bytes(ItemTrends.from_log(log, vocabulary, CHANNELS, moment).to_bytes())

    expected = log.at(np.array([moment]), CHANNELS)
    found = trends.snapshot(vocabulary)

    assert expected[:, 1:].all(axis=(0, 1)).any()
    np.testing.assert_array_equal(found.at(np.array([moment]), CHANNELS), expected)
    assert found.time_us == moment


def test_a_model_of_another_vocabulary_reads_them_by_id() -> None:
    log, vocabulary = made()
    trends = ItemTrends.from_log(log, vocabulary, CHANNELS, T + 5 * DAY)
    other = Vocabulary(["i\n3", "new", "i\n0"])  # another order, one item that is new, four that are gone

    values = trends.snapshot(other).values

    np.testing.assert_array_equal(values[1], trends.values[3])
    np.testing.assert_array_equal(values[3], trends.values[0])
    assert not values[[0, 2]].any()


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda raw: raw[:-1], RecordError),
        (lambda raw: raw[:60] + b"x" + raw[61:], RecordError),
        (lambda raw: b"", RecordError),
        (lambda raw: raw[:3] + b"\x02" + raw[4:], NewerRecord),
    ],
)
def test_damage_is_noticed(damage, error: type[Exception]) -> None:
    log, vocabulary = made()
    raw = ItemTrends.from_log(log, vocabulary, CHANNELS, T).to_bytes()

    with pytest.raises(error):
        ItemTrends.from_bytes(damage(raw))
