"""With shuffled items a correct feature predicts nothing; one that reads its own event still does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from made_cut import cut_of, features_of, made_users

import features.sequences
from data.times import to_iso
from experiments.leakage import target_probe
from experiments.leakage.cut import Outcome
from training import validation


def share(outcome: Outcome, feature: str, times: str) -> float:
    (row,) = (row for row in outcome.measured if row["feature"] == feature)
    return float(row[f"won {times}"].split()[0])


def test_a_clean_platform_passes(events: pd.DataFrame) -> None:
    outcome = target_probe.probe(cut_of(events))

    assert outcome.findings == []
    assert outcome.rows > 50
    assert 0.2 < share(outcome, "trend all", "with shuffled items") < 0.8


def test_trends_that_count_the_event_that_is_asked_about_are_found(events, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "moments", lambda cases, minutes: cases.time + 1)

    outcome = target_probe.probe(cut_of(events))

    found = {finding.what.partition(" predicts")[0]: finding for finding in outcome.findings if finding.fails}
    assert "the feature history" not in found
    example = found["the feature trend window_1d"].examples[0]
    taken = events[(events["user_id"] == example["user_id"]) & (events["item_id"] == example["item taken"])]
    assert to_iso(taken["event_time"].iloc[0].value // 1000) == example["case time"]
    assert float(example["its score"]) > float(example["its score then"])
    assert share(outcome, "trend window_1d", "with shuffled items") > 0.9


def test_a_history_that_holds_what_is_asked_is_found(events, monkeypatch: pytest.MonkeyPatch) -> None:
    original = features.sequences.history_ends
    monkeypatch.setattr(features.sequences, "history_ends", lambda log, user, time: original(log, user, time + 1))

    (found,) = target_probe.probe(cut_of(events)).findings

    assert found.what == "the feature history predicts the item taken even with shuffled items"


def test_a_context_column_that_tells_the_item_is_found(events: pd.DataFrame) -> None:
    shelf = "shelf " + (events["item_id"].str[1:].astype(int) // 2).astype(str)  # as many as values are kept

    (found,) = target_probe.probe(cut_of(events.assign(device=shelf))).findings

    assert found.what == "context device predicts the item taken in more than 90% of the duels"


def test_a_correct_trait_that_halves_the_catalog_is_no_leak(events: pd.DataFrame) -> None:
    users = made_users().assign(plan=[("even", "odd")[number % 2] for number in range(40)])
    number, side = events["item_id"].str[1:].astype(int), events["user_id"].str[1:].astype(int) % 2
    events["item_id"] = [f"i{item:03d}" for item in (number // 2 * 2 + side).where(number < 119, 119)]
    events = events.drop_duplicates(["user_id", "item_id"], ignore_index=True)

    outcome = target_probe.probe(cut_of(events, features_of(events, users=users), users=users))

    assert not any(finding.fails for finding in outcome.findings)
    assert 0.6 < share(outcome, "traits plan", "with the true times") < 0.9


def test_data_without_structure_passes(events: pd.DataFrame) -> None:
    shuffled = events.assign(item_id=np.random.default_rng(1).permutation(events["item_id"]))
    shuffled = shuffled.drop_duplicates(["user_id", "item_id"], ignore_index=True)

    assert target_probe.probe(cut_of(shuffled)).findings == []


def test_the_share_won_with_shuffled_items_is_that_of_a_fair_coin(events: pd.DataFrame) -> None:
    at = cut_of(events)
    deviations = []
    for seed in range(12):
        generator = np.random.default_rng([seed, 9])
        log = replace(at.features.log, items=generator.permutation(at.features.log.items))
        seeded = replace(at, settings=at.settings.model_copy(update={"seed": seed}))
        shuffled = target_probe.probe_features(seeded, replace(at.features, log=log))
        won, decided = target_probe.count_won(shuffled.features["trend window_30d"])
        deviations.append((won - decided / 2) / np.sqrt(decided / 4))

    assert abs(np.mean(deviations)) < 3.3 / np.sqrt(12)
    assert np.std(deviations) < 1.9
