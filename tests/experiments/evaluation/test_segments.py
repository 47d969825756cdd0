"""Segments are slices of an evaluation, as of the moment of each case."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from made_rankings import made_cases, made_items, rank
from segment_reference import RuleEvent, RuleProfile, matching_segments

from config import params
from config.command import UserError
from data.tables import microseconds
from experiments.evaluation.cases import Catalog, SegmentSlices, case_slices, collect_cases
from experiments.evaluation.measure import measure
from features import feature_files
from features.segment_rules import split_values
from features.sequences import horizon_cases


@pytest.fixture(scope="module")
def made() -> tuple[pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(3)
    items = made_items(rng, 40)
    return rank(rng, items, made_cases(rng, items, users=20, cases=100), skill=2), items


def numbers(nested: dict, at: str = "") -> dict[str, float]:
    """Every number in nested dicts, by its path; NaN for none."""
    found = {}
    for name, value in nested.items():
        inside = f"{at}/{name}"
        found |= numbers(value, inside) if isinstance(value, dict) else {inside: np.nan if value is None else value}
    return found


def test_a_case_is_in_the_slices_of_its_segments(made) -> None:
    rankings, items = made
    cases = collect_cases([rankings], "next_item", Catalog.from_items(items))
    assert cases is not None
    ordered = rankings[rankings["target"] == "next_item"].sort_values("case_id")

    found = case_slices(cases)

    for name in ("odd", "third"):
        assert found[f"segment:{name}"].tolist() == [name in names for names in ordered["segments"]]
        assert 0 < found[f"segment:{name}"].sum() < len(ordered)


def test_rankings_without_segments_have_no_such_slices(made) -> None:
    rankings, items = made

    found = measure(rankings.drop(columns="segments"), items, 0, 100)

    assert not [name for name in found["next_item"]["slices"] if name.startswith("segment:")]


def test_segments_change_no_other_number(made) -> None:
    rankings, items = made
    whole, without = measure(rankings, items, 0, 100), measure(rankings.drop(columns="segments"), items, 0, 100)

    for target, found in without.items():
        assert whole[target]["metrics"] == found["metrics"]
        shared = {name: whole[target]["slices"][name] for name in found["slices"]}
        # Not to the bit: all slices are resampled in one matrix product, whose rounding may depend on its width.
        assert numbers(shared) == pytest.approx(numbers(found["slices"]), rel=1e-12, nan_ok=True)


@pytest.mark.slow
def test_every_case_is_in_the_segments_that_its_events_say(pipeline: Path) -> None:
    """From the ingested events and rankings alone, one case at a time."""
    out = pipeline / "out/experiments"
    written = yaml.safe_load((pipeline / "params.yaml").read_text(encoding="utf-8"))["segments"]["rules"]
    rankings = pd.read_parquet(out / "rankings/ease.parquet")
    events = pd.read_parquet(pipeline / "out/data/split/events.parquet")
    events = events.assign(time=microseconds(events["event_time"]), known=microseconds(events["known_time"]))
    of_user = dict(list(events.groupby("user_id")))

    for target, rows in rankings.groupby("target"):
        for row in rows.sample(60, random_state=0).itertuples():
            own = of_user[row.user_id]
            history = [RuleEvent(*fields) for fields in zip(own["item_id"], own["time"], own["known"], strict=True)]
            at = int(row.time.value // 1000)
            assert list(row.segments) == matching_segments(written, RuleProfile(history), at, {}), (target, row.case_id)
    metrics = json.loads((out / "metrics/ease.json").read_text(encoding="utf-8"))
    for target in ("horizon", "next_item"):
        slices = metrics["targets"][target]["slices"]
        assert {"segment:new", "segment:regular", "segment:active"} <= set(slices)
        named = rankings.loc[rankings["target"] == target, "segments"]
        assert slices["segment:active"]["cases"] == sum("active" in names for names in named)
    assert metrics["segments"]["segment:heavy"] == "events at least 50"


@pytest.mark.slow
def test_rules_on_traits_and_genres_read_the_ingested_tables(pipeline: Path) -> None:
    features = feature_files.load_features(pipeline / "out/features/test")
    ingested = pipeline / "out/data/ingest"
    items, users = (pd.read_parquet(ingested / f"{name}.parquet") for name in ("items", "users"))
    genre = min(split_values(items["genres"].dropna().iloc[0]))
    trait = next(name for name in users if name != "user_id")
    value = users[trait].dropna().iloc[0]
    written = params.SegmentRules.model_validate({"rules": [
        {"name": "fans", "all": [{"share_of": {"field": "genres", "value": genre}, "at_least": 0.2}]},
        {"name": "alike", "all": [{"trait": trait, "equals": value if isinstance(value, str) else float(value)}]},
    ]}).plain()  # fmt: skip
    log, cut = features.log, features.cut_us

    cases = horizon_cases(log, cut, 28, features.description["until_us"])
    found = SegmentSlices.of(written, features, ingested).column(features, cases)

    alike = set(users.loc[users[trait] == value, "user_id"])
    values = {
        item: {"genres": split_values(cell)} for item, cell in zip(items["item_id"], items["genres"], strict=True)
    }
    ids = ["", *features.vocabulary.ids]
    for row in range(len(cases)):
        user = cases.user[row]
        rows = range(log.offsets[user], log.offsets[user + 1])
        history = [RuleEvent(ids[log.items[at]], int(log.times[at]), int(log.known[at])) for at in rows]
        known = min(max(event.time_us, event.known_us) for event in history)
        name = features.users[user]
        profile = RuleProfile(history, {trait: value if name in alike else "another"}, known)
        assert found[row] == matching_segments(written, profile, cut, values)
    assert {"fans", "alike"} <= {name for names in found for name in names}


def test_a_rule_that_the_dataset_cannot_answer_is_named(tmp_path: Path) -> None:
    pd.DataFrame({"user_id": ["u"]}).to_parquet(tmp_path / "users.parquet")
    pd.DataFrame({"item_id": ["i"]}).to_parquet(tmp_path / "items.parquet")
    rule = {"name": "vip", "all": [{"trait": "plan", "equals": "gold"}]}

    class Known:
        users = ("u",)
        vocabulary = type("Vocabulary", (), {"ids": ("i",)})

    with pytest.raises(UserError, match=r"segments\.rules: vip uses plan, which the users do not have; theirs: none"):
        SegmentSlices.of([rule], Known(), tmp_path)  # type: ignore[arg-type]
