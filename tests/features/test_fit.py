"""Rolling windows lie end to end before the test window, and a fit learns only from its own events."""

from __future__ import annotations

import numpy as np
import pandas as pd

from config import params
from config.paths import ROOT
from data.columns import DAY
from features import fit
from features.fit import SplitTables

SETTINGS = params.load(ROOT / "params.yaml")
START = 20_000 * DAY


def tables(rows: list[tuple[str, str, float]], valid_day: int = 6, test_day: int = 8) -> SplitTables:
    """Events (user, item, day), a cut at two of the days."""
    users, items, days = zip(*rows, strict=True)
    times = pd.to_datetime([START + int(day * DAY) for day in days], unit="us", utc=True).as_unit("us")
    ids = [f"e{number}" for number in range(len(rows))]
    events = pd.DataFrame(
        {"event_id": ids, "user_id": users, "item_id": items, "event_time": times, "known_time": times}
    )
    manifest = {
        "dataset": "typed", "dataset_hash": "none", "split_id": "none", "numeric_ids": [], "horizon_days": 28,
        "valid_start_us": START + valid_day * DAY, "test_start_us": START + test_day * DAY,
    }  # fmt: skip
    known = pd.DataFrame({"user_id": sorted(set(users))}), pd.DataFrame({"item_id": sorted(set(items))})
    return SplitTables.before_test(events, *known, manifest)


DAILY = [(f"u{day % 3}", f"i{day}", day) for day in range(10)]


def test_no_event_of_the_test_window_is_read() -> None:
    assert tables(DAILY).times.max() < START + 8 * DAY


def test_windows_lie_end_to_end_oldest_first_up_to_the_test_window() -> None:
    found = fit.rolling_windows(tables(DAILY), 3)

    assert [(start - START, stop - START) for start, stop in found] == [
        (2 * DAY, 4 * DAY),
        (4 * DAY, 6 * DAY),
        (6 * DAY, 8 * DAY),
    ]


def test_a_window_with_less_before_it_than_in_it_is_none() -> None:
    # Before day 2 lie two events, as many as in the window that begins there; before day 0 lies nothing.
    assert fit.rolling_windows(tables(DAILY), 9) == fit.rolling_windows(tables(DAILY), 3)


def test_an_earlier_cut_knows_no_item_that_came_after_it_and_ends_with_its_window() -> None:
    made = fit.fit_window(tables(DAILY), START + 2 * DAY, START + 4 * DAY, SETTINGS)

    assert set(made.vocabulary.ids) == {"i0", "i1"}
    assert made.log.times.max() == START + 3 * DAY
    assert made.description["until_us"] == START + 4 * DAY


def test_a_part_learns_only_what_is_kept_while_histories_hold_everything() -> None:
    every = tables(DAILY)
    kept = every.events["item_id"].isin(["i1", "i4", "i7"]).to_numpy()

    learned, asked = fit.fit_subset(every, kept, SETTINGS)

    assert set(learned.vocabulary.ids) == {"i1", "i4", "i7"}
    assert learned.past.times.tolist() == [START + day * DAY for day in (1, 4, 7)]
    assert len(asked.log.items) == 8


def test_row_e_of_a_log_is_row_e_of_the_events() -> None:
    shuffled = [DAILY[place] for place in (7, 2, 9, 0, 5, 1, 8, 3, 6, 4)]
    every = tables(shuffled)

    _, asked = fit.fit_subset(every, np.ones(len(every.events), bool), SETTINGS)

    assert asked.log.times.tolist() == every.times.tolist()
    assert [asked.vocabulary.id(row) for row in asked.log.items] == every.events["item_id"].tolist()
