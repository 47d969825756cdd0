"""Each protocol holds out what its name says, and no protocol chooses hyperparameters on its own cases."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from made_features import checkerboard, train_settings

from config import params
from config.command import UserError
from config.paths import ROOT
from data.columns import DAY, MINUTE
from experiments.evaluation import holdout_protocols
from experiments.evaluation.holdout_protocols import (
    MEANINGS,
    Fold,
    all_folds,
    assign_parts,
    is_last_event,
    measure_folds,
    session_numbers,
)
from features.fit import SplitTables
from training import validation

SHIPPED = params.load(ROOT / "params.yaml")
START = 20_000 * DAY
TEST = START + 10 * DAY


def with_sensitivity(**changes: int) -> params.Params:
    """The shipped settings with few folds, and these changes."""
    section = SHIPPED.sensitivity.model_copy(update={"rolling_windows": 1, "folds": 2, **changes})
    return SHIPPED.model_copy(update={"sensitivity": section})


SETTINGS = with_sensitivity()


def tables(rows: list[tuple[str, str, int]], session: list[str | None] | None = None) -> SplitTables:
    """Events (user, item, minute); the validation period is days 8 and 9, the test period what follows."""
    users, items, minutes = zip(*rows, strict=True)
    times = pd.to_datetime([START + minute * MINUTE for minute in minutes], unit="us", utc=True).as_unit("us")
    ids = [f"e{number:04d}" for number in range(len(rows))]
    events = pd.DataFrame(
        {"event_id": ids, "user_id": users, "item_id": items, "event_time": times, "known_time": times}
    )
    if session is not None:
        events["session_id"] = session
    manifest = {
        "dataset": "typed", "dataset_hash": "none", "split_id": "none", "numeric_ids": [], "horizon_days": 28,
        "valid_start_us": START + 8 * DAY, "test_start_us": TEST,
    }  # fmt: skip
    known = pd.DataFrame({"user_id": sorted(set(users))}), pd.DataFrame({"item_id": sorted(set(items))})
    return SplitTables.before_test(events, *known, manifest)


def daily(users: int = 4, days: int = 12, items: int = 30) -> SplitTables:
    """Every user takes an item a day, in an order of their own, two days into the test period."""
    return tables([(f"u{u}", f"i{(7 * u + d) % items:02d}", d * 1440 + u) for u in range(users) for d in range(days)])


def test_every_protocol_has_cases_and_none_reaches_into_the_test_period() -> None:
    found = list(all_folds(daily(), SETTINGS))

    assert {column for fold in found for column, cases in fold.cases.items() if len(cases)} == set(MEANINGS)
    assert max(int(fold.queried.log.times.max()) for fold in found) < TEST


def test_only_the_temporal_cut_which_comes_first_chooses_hyperparameters() -> None:
    cuts = [fold.fitted.description["cut"] for fold in all_folds(daily(), SETTINGS)]

    assert cuts == ["valid"] + ["test"] * (len(cuts) - 1)


def test_an_earlier_window_is_fitted_on_what_lies_before_it() -> None:
    rolling = next(fold for fold in all_folds(daily(), SETTINGS) if "rolling next_item" in fold.cases)

    assert rolling.fitted.past.times.max() < START + 6 * DAY
    assert rolling.cases["rolling next_item"].time.min() >= START + 6 * DAY
    assert rolling.cases["rolling next_item"].time.max() < START + 8 * DAY


def test_no_fold_is_fitted_on_its_own_cases() -> None:
    for fold in all_folds(daily(), SETTINGS):
        past = fold.fitted.past
        learned = set(zip(past.users.tolist(), past.times.tolist(), strict=True))
        for column, cases in fold.cases.items():
            if "horizon" not in column:
                assert not learned & set(zip(cases.user.tolist(), cases.time.tolist(), strict=True)), fold.name


def test_a_held_out_user_has_no_training_event_and_keeps_their_own_history() -> None:
    fold = next(fold for fold in all_folds(daily(), SETTINGS) if "user k-fold" in fold.cases)
    cases = fold.cases["user k-fold"]

    assert not set(cases.user.tolist()) & set(fold.fitted.past.users.tolist())
    assert (cases.end - fold.queried.log.offsets[cases.user]).max() == 9  # of ten days, all that lie before the last


def test_too_many_rolling_windows_are_refused_with_the_largest_possible_number() -> None:
    settings = with_sensitivity(rolling_windows=4)  # ten days before the test period, two of them in each window

    with pytest.raises(UserError, match=r"sensitivity.rolling_windows is 4; expected at most 3: before a further"):
        next(all_folds(daily(), settings))


def test_the_limit_on_cases_covers_all_folds_of_a_protocol() -> None:
    counted: Counter[str] = Counter()
    for fold in all_folds(daily(), with_sensitivity(cases=4)):
        counted.update({column: len(cases) for column, cases in fold.cases.items()})

    assert max(counted.values()) == 4


def test_only_the_last_event_of_users_who_have_others_is_left_out() -> None:
    assert is_last_event(np.array([0, 0, 0, 1, 2, 2])).tolist() == [False, False, True, False, False, True]


def test_parts_keep_units_whole_and_hold_equally_many_of_them() -> None:
    unit = np.repeat(np.arange(10), 3)

    part = assign_parts(unit, count=5, seed=0)

    assert all(len(set(part[unit == one].tolist())) == 1 for one in range(10))
    assert np.bincount(part).tolist() == [6] * 5


def test_another_seed_draws_other_parts() -> None:
    unit = np.arange(40)

    assert assign_parts(unit, 4, seed=0).tolist() != assign_parts(unit, 4, seed=1).tolist()


ROWS = [("a", "x", 0), ("a", "y", 29), ("a", "z", 59), ("b", "x", 59), ("b", "y", 60)]


@pytest.mark.parametrize("named", [None, [None] * 5, ["s", None, "s", "s", "s"]])
def test_a_pause_of_half_an_hour_begins_a_session_where_not_all_are_named(named: list | None) -> None:
    number = session_numbers(tables(ROWS, named).events, minutes=30)

    assert pd.factorize(number)[0].tolist() == [0, 0, 1, 2, 2]


def test_named_sessions_are_taken_as_they_are_and_end_with_their_user() -> None:
    number = session_numbers(tables(ROWS, ["s", "t", "s", "s", "s"]).events, minutes=30)

    assert pd.factorize(number)[0].tolist() == [0, 1, 0, 2, 2]


def fold(name: str, cut: str, column: str) -> Fold:
    features = checkerboard(cut=cut)
    return Fold(name, features, features, {column: validation.cases(features)["next_item"]})


SMALL = SHIPPED.model_copy(update={"train": train_settings()})


def test_the_first_fold_chooses_hyperparameters_and_the_others_reuse_them(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = []
    fit = holdout_protocols.fit
    monkeypatch.setattr(
        holdout_protocols, "fit", lambda configuration, *rest: fitted.append(configuration) or fit(configuration, *rest)
    )

    measure_folds(
        [fold("first", "valid", "next_item"), fold("then", "test", "leave last out")], ["ease", "popularity"], SMALL
    )

    assert fitted[0]["l2"] == [200, 1000]
    assert fitted[2]["l2"] in (200, 1000)


def test_a_model_that_refuses_a_catalog_is_left_out_of_every_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    models = SMALL.train.models
    small = models | {"ease": models["ease"].model_copy(update={"max_items": 3})}
    settings = SMALL.model_copy(update={"train": SMALL.train.model_copy(update={"models": small})})

    found = measure_folds([fold("first", "valid", "next_item")], ["ease", "popularity", "item_knn"], settings)

    assert list(found["next_item"]) == ["user", "popularity", "item_knn"]
    assert "left out ease: ease: 41 items exceed max_items = 3" in capsys.readouterr().out


@pytest.mark.slow
def test_a_learned_model_beats_popularity_on_the_checkerboard() -> None:
    chosen = SMALL.train.models["two_tower"].model_copy(
        update={"embedding_dim": 16, "num_heads": 2, "max_steps": 60, "max_epochs": 8, "batch_size": 128, "max_history": 8,
                "channels": ["all", "half_life_1d"], "warmup_steps": 10, "learning_rate": 0.01}
    )  # fmt: skip
    train = SMALL.train.model_copy(update={"models": SMALL.train.models | {"two_tower": chosen}})
    settings = SMALL.model_copy(update={"train": train})

    found = measure_folds(
        [fold("first", "valid", "next_item"), fold("then", "test", "leave last out")],
        ["two_tower", "popularity"],
        settings,
    )

    for column in ("next_item", "leave last out"):  # only a model that reads histories sees the checkerboard
        assert found[column]["two_tower"].mean() > found[column]["popularity"].mean()
