"""Sessions that span the cut are counted; their later part in training is a leak."""

from __future__ import annotations

import pandas as pd
import pytest
from made_cut import TEST, cut_of, moments, split

from data.columns import DAY, MINUTE
from data.times import to_iso
from experiments.leakage import event_order
from features.sequences import InteractionLog


@pytest.fixture
def astride(events: pd.DataFrame) -> pd.DataFrame:
    """u03 sits through the cut: two events before it, three after, at most 29 minutes apart."""
    times = [TEST + minutes * MINUTE for minutes in (-40, -11, 0, 20, 49)]
    items = [f"i{number:03d}" for number in range(119) if not _has(events, "u03", number)][:5]
    more = pd.DataFrame({"event_id": [f"z{n}" for n in range(5)], "user_id": "u03", "item_id": items,
                         "event_time": moments(times), "known_time": moments(times), "device": "tv"})  # fmt: skip
    near = abs(events["event_time"] - pd.Timestamp(TEST, unit="us", tz="UTC")) < pd.Timedelta(hours=3)
    return split(pd.concat([events[~near], more]))


def _has(events: pd.DataFrame, user: str, number: int) -> bool:
    return ((events["user_id"] == user) & (events["item_id"] == f"i{number:03d}")).any()


def test_a_session_astride_the_cut_is_told_with_its_share_and_fails_nothing(astride: pd.DataFrame) -> None:
    (found,) = event_order.astride(cut_of(astride)).findings

    assert (found.rows, found.fails) == (3, False)
    assert found.what.startswith("1 of ")
    assert found.examples == [
        {"user_id": "u03", "from": to_iso(TEST - 40 * MINUTE), "to": to_iso(TEST + 49 * MINUTE), "events before": "2",
         "after": "3"}
    ]  # fmt: skip


def test_a_longer_pause_ends_a_session(astride: pd.DataFrame) -> None:
    gap = astride["event_id"].isin(["z2", "z3", "z4"])
    astride.loc[gap, ["event_time", "known_time"]] += pd.Timedelta(minutes=19)

    assert event_order.astride(cut_of(astride)).findings == []


def test_a_whole_session_filed_as_training_is_found(astride: pd.DataFrame) -> None:
    astride.loc[astride["event_id"].isin(["z3", "z4"]), "part"] = "train"

    _, leak = event_order.astride(cut_of(astride)).findings

    assert (leak.rows, leak.fails) == (2, True)
    assert {one["event_id"] for one in leak.examples} == {"z3", "z4"}


def test_the_later_part_of_a_session_that_training_reads_is_found(astride, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = InteractionLog.before
    monkeypatch.setattr(InteractionLog, "before", lambda self, time_us: honest(self, time_us + DAY))

    _, leak = event_order.astride(cut_of(astride)).findings

    assert leak.rows == 3
