"""Histories end strictly before the moment asked about, and read the same offline and live."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from config import params
from config.paths import ROOT
from data.columns import DAY
from data.tables import microseconds
from features.encode import resolve_history
from features.feature_files import Features
from features.fit import fit_features, order_items
from features.sequences import batches, horizon_cases, next_item_cases
from training import validation
from training.fitting import fit

SETTINGS = params.load(ROOT / "params.yaml")
START = 1_700_000_000_000_000
CUT = START + 30 * DAY


def made_events(seed: int = 0) -> pd.DataFrame:
    """900 events of 30 users with 60 items over 40 days, many at the same moment; no pair twice."""
    generator = np.random.default_rng(seed)
    pairs = generator.permutation(30 * 60)[:900]
    time = START + np.sort(generator.integers(0, 160, size=900)) * DAY // 4
    times = pd.to_datetime(pd.Series(time), unit="us", utc=True).astype("datetime64[us, UTC]")
    return pd.DataFrame(
        {
            "event_id": [f"e{number:04d}" for number in generator.permutation(900)],
            "user_id": [f"u{pair // 60}" for pair in pairs],
            "item_id": [f"i{pair % 60}" for pair in pairs],
            "event_time": times,
            "known_time": times,
        }
    ).sort_values(["event_time", "event_id"])


def features_of(events: pd.DataFrame) -> Features:
    users = pd.DataFrame({"user_id": sorted(events["user_id"].unique())})
    users["plan"] = ["free" if number % 2 else "paid" for number in range(len(users))]
    items = pd.DataFrame({"item_id": sorted(events["item_id"].unique())})
    made = fit_features(events, users, items, CUT, SETTINGS.featurize, 0)
    made.description |= {"until_us": START + 41 * DAY, "horizon_days": 28, "repeats": "first", "cut": "test"}
    return made


def test_no_case_sees_its_own_moment_or_later() -> None:
    features = features_of(made_events())
    log = features.log
    cases = next_item_cases(log, CUT, START + 41 * DAY)

    assert len(cases)
    for user, time, end in zip(cases.user, cases.time, cases.end, strict=True):
        own = log.times[log.offsets[user] : log.offsets[user + 1]]
        assert end - log.offsets[user] == (own < time).sum()


def test_offline_and_live_histories_are_the_same() -> None:
    events = made_events()
    features = features_of(events)
    cases = next_item_cases(features.log, CUT, START + 41 * DAY)
    at = validation.moments(cases, 10)

    assert len(cases)
    for rows, batch in batches(features.log, cases, features.trend_log(), ("all",), at, 16, None):
        for row, case in enumerate(rows):
            own = events[events["user_id"] == features.users[cases.user[case]]]
            stated = list(zip(own["item_id"], microseconds(own["event_time"]), strict=True))
            live = [features.vocabulary.index(item) for item, _ in resolve_history(stated, cases.time[case], "first")]
            offline = batch.items[row][batch.items[row] > 0].tolist()
            assert sorted(offline) == sorted(item for item in live if item)


def test_what_became_known_later_is_not_seen() -> None:
    events = made_events()
    late = events["known_time"].where(np.arange(900) % 3 > 0, events["known_time"] + pd.Timedelta(days=2))
    features = features_of(events.assign(known_time=late.astype("datetime64[us, UTC]")))
    log = features.log
    cases = next_item_cases(log, CUT, START + 41 * DAY)

    assert len(cases)
    for rows, batch in batches(log, cases, features.trend_log(), ("all",), validation.moments(cases, 10), 16, None):
        for row, case in enumerate(rows):
            user, time = cases.user[case], cases.time[case]
            own = slice(log.offsets[user], log.offsets[user + 1])
            visible = (log.times[own] < time) & (log.known[own] <= time) & (log.items[own] > 0)
            assert (batch.items[row] > 0).sum() == visible.sum()


def test_a_users_traits_are_unknown_before_the_first_event() -> None:
    events = made_events()
    newcomer = events[(events["user_id"] != "u3") | (microseconds(events["event_time"]) >= CUT)]
    features = features_of(newcomer)
    row = features.users.index("u3")
    window, following = (
        horizon_cases(features.log, CUT, 28, START + 41 * DAY),
        next_item_cases(features.log, CUT, START + 41 * DAY),
    )
    for cases, known in ((window.take(np.flatnonzero(window.user == row)), False),
                         (following.take(np.flatnonzero(following.user == row)), True)):  # fmt: skip
        assert len(cases)
        at = validation.moments(cases, 10)
        for _, batch in batches(features.log, cases, features.trend_log(), ("all",), at, 16, None):
            assert bool((batch.traits > 0).all()) == known


@pytest.mark.parametrize("label", ["popularity", "popularity_7d", "item_knn", "ease"])
def test_neither_row_order_nor_item_numbers_change_a_metric(label: str) -> None:
    events = made_events()
    names = {
        item: f"x{number:03d}" for number, item in enumerate(np.random.default_rng(1).permutation(order_items(events)))
    }
    renumbered = events.assign(item_id=events["item_id"].map(names)).sample(frac=1, random_state=2)
    scores = []
    for frame in (events, renumbered):
        features = features_of(frame)
        torch.manual_seed(0)
        recipe = SETTINGS.train.models[label].model_dump() | ({"l2": 200.0} if label == "ease" else {})
        model = fit(recipe, features, SETTINGS.train, 0).model
        for cases in validation.cases(features).values():
            scores.append(np.sort(validation.ndcg(model, features, cases, features.trend_log(), 64)))
    for first, second in zip(scores[:2], scores[2:], strict=True):
        np.testing.assert_allclose(first, second, atol=1e-12)


def test_validation_never_looks_beyond_its_own_period() -> None:
    features = features_of(made_events())
    features.description["until_us"] = CUT + 3 * DAY  # where the test begins, sooner than the window's 28 days

    window = validation.cases(features)["horizon"]

    log = features.log
    taken = {(user, item): time for user, item, time in zip(log.users, log.items, log.times, strict=True)}
    owner = np.repeat(window.user, np.diff(window.truth_offsets))
    times = [taken[user, item] for user, item in zip(owner, window.truth, strict=True)]
    assert min(times) >= CUT
    assert CUT + 2 * DAY < max(times) < CUT + 3 * DAY
