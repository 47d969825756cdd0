"""Leaks that are planted are found; clean data passes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import params
from data.columns import DAY
from experiments import audit
from features.featurize import featurize, microseconds
from features.store import Features
from features.trends import TrendLog

ROOT_PARAMS = params.load(params.ROOT / "params.yaml")
START = 1_700_000_000_000_000
CUT = START + 60 * DAY


@pytest.fixture
def events() -> pd.DataFrame:
    """600 events of 20 users with 40 items over 80 days; no pair twice."""
    generator = np.random.default_rng(0)
    pairs = generator.permutation(20 * 40)[:600]
    time = START + np.sort(generator.integers(0, 80 * DAY, size=600))
    times = pd.to_datetime(pd.Series(time), unit="us", utc=True).astype("datetime64[us, UTC]")
    frame = pd.DataFrame(
        {
            "event_id": [f"e{number:04d}" for number in range(600)],
            "user_id": [f"u{pair // 40}" for pair in pairs],
            "item_id": [f"i{pair % 40}" for pair in pairs],
            "event_time": times,
            "known_time": times,
            "part": np.where(time < START + 50 * DAY, "train", np.where(time < CUT, "valid", "test")),
        }
    )
    return frame


def features_of(events: pd.DataFrame) -> Features:
    users = pd.DataFrame({"user_id": sorted(events["user_id"].unique())})
    items = pd.DataFrame({"item_id": sorted(events["item_id"].unique())})
    made = featurize(events, users, items, CUT, ROOT_PARAMS.featurize, 0)
    made["description"] |= {"until_us": START + 81 * DAY, "window_days": 28, "repeats": "first", "cut": "test"}
    return Features(**made)


def checks(events: pd.DataFrame, features: Features) -> list[str]:
    manifest = {"valid_start_us": START + 50 * DAY, "test_start_us": CUT}
    return [finding.check for finding in audit.audit(events, manifest, features, 0)]


def test_clean_data_passes(events: pd.DataFrame) -> None:
    assert checks(events, features_of(events)) == []


def test_a_planted_future_event_is_caught(events: pd.DataFrame) -> None:
    features = features_of(events)
    late = int(np.flatnonzero(features.log.times >= CUT)[0])
    past = features.log.before(CUT)
    past.times[0] = features.log.times[late]

    (finding,) = audit.future_events(past, CUT)
    assert finding.rows == 1


def test_a_future_event_filed_as_training_is_caught(events: pd.DataFrame) -> None:
    late = events.index[microseconds(events["event_time"]) >= CUT][0]
    events.loc[late, "part"] = "train"

    assert checks(events, features_of(events)) == ["an event lies in another part than its time"]


def test_a_planted_duplicate_is_caught(events: pd.DataFrame) -> None:
    again = events.iloc[[5]].assign(event_id="e9999", part="test")
    again["event_time"] = again["known_time"] = events["event_time"].iloc[-1]
    planted = pd.concat([events, again], ignore_index=True)

    assert checks(planted, features_of(events)) == ["a user has an item twice"]
    assert checks(pd.concat([events, events.iloc[[3]]]), features_of(events))[0] == "an event occurs twice"


def test_a_feature_that_peeks_at_its_own_moment_is_caught(events, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = TrendLog.at
    monkeypatch.setattr(TrendLog, "at", lambda self, moments, channels: honest(self, moments + DAY, channels))

    assert checks(events, features_of(events)) == ["a feature reads its own moment or later"]
