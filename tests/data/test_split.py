"""One cut through everybody's time, at the same microsecond on every machine."""

from __future__ import annotations

import json
from fractions import Fraction
from math import ceil

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from config import params
from data import ingest
from data.cleaning import clean
from data.columns import DAY
from data.files import DataError
from data.readers.sources import read_source
from data.split import describe, main, temporal_split
from data.tables import microseconds


def settings(**changes) -> params.Split:
    plain = {
        "valid_quantile": 0.8,
        "test_quantile": 0.9,
        "valid_start": None,
        "test_start": None,
        "horizon_days": 28,
    }
    return params.Split.model_validate(plain | changes)


def log(times: list[int], users=None, items=None) -> pd.DataFrame:
    """Events at these microseconds; users alternate and items are new unless given."""
    return pd.DataFrame(
        {
            "event_id": [f"{at:03d}" for at in range(len(times))],
            "user_id": users or [f"u{at % 2}" for at in range(len(times))],
            "item_id": items or [f"i{at}" for at in range(len(times))],
            "event_time": pd.to_datetime(np.array(times, dtype="datetime64[us]"), utc=True),
        }
    )


def parts(events: pd.DataFrame) -> dict[str, list[str]]:
    return events.groupby("part")["event_id"].apply(list).to_dict()


def test_cuts_are_the_quantiles_of_event_times():
    events, cuts = temporal_split(log([100 * at for at in range(11)]), settings())

    # 11 events: the quantile 0.8 stands at position 0.8 × 10 = 8, exactly on an event.
    assert (cuts.valid_start, cuts.test_start, cuts.end) == (800, 900, 1000)
    assert parts(events)["valid"] == ["008"]
    assert parts(events)["test"] == ["009", "010"]


def test_a_cut_between_two_events_is_interpolated_and_rounded_up():
    events, cuts = temporal_split(log([0, 0, 0, 0, 0, 0, 0, 3, 10, 21]), settings())

    # 10 events: position 0.8 × 9 = 7.2, so 3 + 0.2 × 7 = 4.4, up to 5; position 8.1, so 10 + 0.1 × 11 = 11.1, up to 12.
    assert (cuts.valid_start, cuts.test_start) == (5, 12)
    assert parts(events) == {"train": [f"{at:03d}" for at in range(8)], "valid": ["008"], "test": ["009"]}


def test_an_event_at_the_cut_belongs_to_the_later_part():
    times = [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 11, 12, 13]

    events, cuts = temporal_split(
        log(times),
        settings(valid_start="1970-01-01T00:00:00.000008Z", test_start="1970-01-01T00:00:00.000012Z"),
    )

    assert (cuts.valid_start, cuts.test_start) == (8, 12)
    assert parts(events)["valid"] == ["008", "009", "010", "011"]
    assert parts(events)["test"] == ["012", "013"]


def test_explicit_dates_win_and_name_utc_where_they_name_no_zone():
    events, cuts = temporal_split(log([at * DAY for at in range(20)]), settings(test_start="1970-01-19T00:00:00"))

    assert cuts.test_start == 18 * DAY
    assert parts(events)["test"] == ["018", "019"]


long_logs = st.lists(st.integers(10**15, 2 * 10**15), min_size=10, max_size=60, unique=True)


@examples(max_examples=50, deadline=None)
@given(times=long_logs)
def test_train_holds_no_event_at_or_after_the_cutoff(times):
    times = sorted(times)
    events, cuts = temporal_split(log(times), settings())

    at = pd.Series(microseconds(events["event_time"]), index=events.index)
    assert (at[events["part"] == "train"] < cuts.valid_start).all()
    assert at[events["part"] == "valid"].between(cuts.valid_start, cuts.test_start, inclusive="left").all()
    assert (at[events["part"] == "test"] >= cuts.test_start).all()


@examples(max_examples=50, deadline=None)
@given(times=long_logs)
def test_cuts_are_exact_where_floats_are_not(times):
    times = sorted(times)
    _, cuts = temporal_split(log(times), settings())

    low, rest = divmod(9 * (len(times) - 1), 10)
    exact = times[low] + Fraction(rest, 10) * (times[min(low + 1, len(times) - 1)] - times[low])
    assert cuts.test_start == ceil(exact)


@examples(max_examples=50, deadline=None)
@given(times=st.lists(st.integers(0, 30), min_size=12, max_size=40), data=st.data())
def test_renumbering_items_changes_no_cut_and_no_part(times, data):
    names = [f"i{at % 7}" for at in range(len(times))]
    renumbered = dict(zip(sorted(set(names)), data.draw(st.permutations(sorted(set(names)))), strict=True))
    try:
        one, cuts = temporal_split(log(times, items=names), settings())
    except DataError:
        assume(False)

    other, other_cuts = temporal_split(log(times, items=[renumbered[name] for name in names]), settings())

    assert other_cuts == cuts
    assert other["part"].tolist() == one["part"].tolist()


def test_the_manifest_tells_cold_from_warm_and_counts_ties():
    times = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 11, 10 + 2 * DAY]
    users = ["a"] * 5 + ["b"] * 5 + ["a", "a", "new", "b"]
    items = [f"i{at}" for at in range(10)] + ["i9", "fresh", "i1", "i0"]
    events, cuts = temporal_split(
        log(times, users, items),
        settings(valid_start="1970-01-01T00:00:00.000008Z", test_start="1970-01-01T00:00:00.000010Z"),
    )

    told = describe(events, cuts, horizon_days=1)

    assert told["counts"]["test"] == {"events": 4, "users": 3, "items": 4}
    assert told["cold_users"] == 0.3333  # new, of a, new and b
    assert told["cold_items"] == 0.25  # fresh, of i9, fresh, i1 and i0
    assert told["ties"] == 0.5  # the two events of a
    assert told["cases"] == {"horizon": 2, "horizon_warm": 0.5, "next_item": 3}  # b acts after the window


def test_a_user_with_only_a_repeated_known_item_is_not_a_horizon_case():
    times = [*range(9), 10, 11, 12]
    users = ["a"] * 9 + ["b", "a", "b"]
    items = [f"i{at}" for at in range(9)] + ["i0", "i3", "i1"]
    events, cuts = temporal_split(
        log(times, users, items),
        settings(valid_start="1970-01-01T00:00:00.000008Z", test_start="1970-01-01T00:00:00.000011Z"),
    )

    assert describe(events, cuts, horizon_days=1)["cases"]["horizon"] == 1


@pytest.mark.parametrize(
    ("events", "changes", "message"),
    [
        (log(list(range(9))), {}, "split: 9 events are too few to split; at least 10 are needed"),
        (
            log(list(range(12)), users=["solo"] * 12),
            {},
            "split: all 12 events have one user, 'solo'; at least 2",
        ),
        (
            log(list(range(12)), items=["hit"] * 12),
            {},
            "split: all 12 events have one item, 'hit'; at least 2",
        ),
        (log([5] * 12), {}, r"split: all 12 events have one time, 1970-01-01T00:00:00\.000005\+00:00"),
        (log([0] * 11 + [1]), {}, "split: all 12 events have 2 different times; at least 3 are needed to split"),
        (
            log(list(range(12))),
            {"test_start": "2030-01-01"},
            "split: the test part is empty: events lie between",
        ),
        (
            log(list(range(12))),
            {"valid_start": "1970-01-01T00:00:00.000009Z", "test_start": "1970-01-01T00:00:00.000003Z"},
            "valid_start 1970-01-01T00:00:00.000009.* is not before",
        ),
        (log(list(range(12))), {"valid_start": "1960-01-01"}, "split: the train part is empty"),
    ],
)
def test_what_cannot_be_split_is_named(events, changes, message):
    with pytest.raises(DataError, match=message):
        temporal_split(events, settings(**changes))


def test_the_command_writes_parts_and_a_manifest_and_its_id_changes_with_the_rules(tmp_path, params_file, capsys):
    lines = [f"u{at % 3},i{at % 5},2024-01-{at + 1:02d}" for at in range(20)]
    (tmp_path / "log.csv").write_text("user_id,item_id,event_time\n" + "\n".join(lines) + "\n", encoding="utf-8")
    ids = []
    for window in (28, 28, 7):
        config = str(params_file(path=str(tmp_path / "log.csv"), repeats="all", split={"horizon_days": window}))
        assert ingest.main(["--params", config, "--out", str(tmp_path / "in")]) == 0
        assert main(["--params", config, "--ingested", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 0
        ids.append(json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))["split_id"])

    events = pd.read_parquet(tmp_path / "out" / "events.parquet")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert ids[0] == ids[1] != ids[2]
    assert events["part"].value_counts().to_dict() == {"train": 16, "valid": 2, "test": 2}
    assert manifest["test_start"] == "2024-01-18T02:24:00Z"  # position 0.9 × 19 = 17.1 of daily events
    assert manifest["end"] == "2024-01-20T00:00:00Z"
    assert "split: train 16, valid 2, test 2 events" in capsys.readouterr().out


def test_the_command_names_the_stage_that_must_run_first(tmp_path, params_file, capsys):
    code = main(["--params", str(params_file(path="x")), "--ingested", str(tmp_path), "--out", str(tmp_path / "o")])

    assert code == 2
    assert "manifest.json does not exist; run python -m data.ingest first" in capsys.readouterr().err


# Figures of docs/evaluation.md's protocol: cases of `next_item`, users of `horizon`, share of those that are warm, ties.
@pytest.mark.parametrize(
    ("name", "next_item_cases", "horizon_users", "warm", "ties"),
    [
        ("ml-100k", 9_872, 163, 0.53, 0.76),
        ("movietweetings-100k", 9_122, 4_046, 0.66, 0.0),
        pytest.param("ml-1m-likes", 57_427, 549, 0.90, 0.47, marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_real_sets_split_as_published(real_data, ingest_settings, name, next_item_cases, horizon_users, warm, ties):
    config = ingest_settings(path=str(real_data / name))
    cleaned = clean(read_source(config, None, 0), config)

    told = describe(*temporal_split(cleaned.events, settings()), horizon_days=28)

    assert told["cases"]["next_item"] == next_item_cases
    assert told["cases"]["horizon"] == horizon_users
    assert round(told["cases"]["horizon_warm"], 2) == warm
    assert round(told["ties"], 2) == ties


@pytest.mark.parametrize(
    ("times", "sizes"),
    [
        ([0] * 18 + [1, 2], (18, 1, 1)),  # a burst, then a few: both quantiles lie in the burst
        ([0, 1] + [2] * 18, (1, 1, 18)),
        ([0] * 5 + [1] * 10 + [2] * 5, (5, 10, 5)),
        (list(range(20)), (16, 2, 2)),
    ],
)
def test_cuts_move_to_the_nearest_times_that_leave_no_part_empty(times, sizes):
    split, _ = temporal_split(log(times), settings())

    assert tuple((split["part"] == part).sum() for part in ("train", "valid", "test")) == sizes


@given(st.lists(st.integers(0, 6), min_size=10, max_size=40).filter(lambda times: len(set(times)) > 2))
def test_any_three_times_can_be_split(times):
    split, cuts = temporal_split(log(sorted(times)), settings())

    assert set(split["part"]) == {"train", "valid", "test"}
    assert cuts.valid_start < cuts.test_start <= cuts.end


def test_configured_dates_never_move():
    with pytest.raises(DataError, match="the train part is empty"):
        temporal_split(log([0] * 18 + [1, 2]), settings(valid_start="1970-01-01T00:00:00Z"))
