"""A study's storage can be opened by several processes at once, and a trial may be scored on several windows."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from made_features import checkerboard
from torch import nn

from config import params
from config.command import UserError
from config.paths import ROOT
from data.columns import DAY
from experiments import tune
from experiments.tuning import trials
from experiments.tuning.study import Budget, fold_features, fold_periods, open_storage, study_name
from features.fit import SplitTables
from training.fitting import FitResult
from training.metrics import geometric_mean

SHIPPED = params.load(ROOT / "params.yaml")
FEATURES = checkerboard()
START = 20_000 * DAY


def with_folds(count: int) -> params.Params:
    return SHIPPED.model_copy(update={"tune": SHIPPED.tune.model_copy(update={"folds": count})})


@pytest.fixture
def ten_days(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three users who take an item a day; validation is days 6 and 7, the test window what follows."""
    rows = [(f"u{user}", f"i{(user + day) % 5}", START + day * DAY + user) for user in range(3) for day in range(10)]
    users, items, times = zip(*rows, strict=True)
    time = pd.to_datetime(list(times), unit="us", utc=True).as_unit("us")
    ids = [f"e{number}" for number in range(len(rows))]
    events = pd.DataFrame({"event_id": ids, "user_id": users, "item_id": items, "event_time": time, "known_time": time})
    manifest = {
        "dataset": "typed", "dataset_hash": "none", "split_id": "none", "numeric_ids": [], "horizon_days": 28,
        "valid_start_us": START + 6 * DAY, "test_start_us": START + 8 * DAY,
    }  # fmt: skip
    known = pd.DataFrame({"user_id": ["u0", "u1", "u2"]}), pd.DataFrame({"item_id": [f"i{n}" for n in range(5)]})
    tables = SplitTables.before_test(events, *known, manifest)
    monkeypatch.setattr(SplitTables, "read", classmethod(lambda cls: tables))


def fitted(by_cut: dict[int, float]):
    """A fit of two epochs of five steps, whose score depends on the day of the cut, and the cuts that it was asked."""
    cuts: list[int] = []

    def fit(configuration, features, settings, seed, on_epoch, deadline=None) -> FitResult:
        cuts.append((features.cut_us - START) // DAY)
        score = by_cut[cuts[-1]]
        shown = {"train/loss": 1.0, "valid/next_item/ndcg_10": score, "valid/horizon/ndcg_10": score}
        rows = [{"step": 5 * epoch, "epoch": epoch} | shown for epoch in (1, 2)]
        for row in rows:
            on_epoch(row)
        return FitResult(nn.Identity(), configuration, 1.0, {"next_item": score, "horizon": score / 2}, rows)  # type: ignore[arg-type]

    return fit, cuts


def test_one_fold_is_the_validation_window_as_featurize_wrote_it() -> None:
    assert fold_features(FEATURES, with_folds(1)) == [FEATURES]


def test_folds_are_windows_oldest_first_that_end_with_the_validation_window(ten_days: None) -> None:
    found = fold_features(FEATURES, with_folds(3))

    assert [(one.cut_us - START) // DAY for one in found] == [2, 4, 6]
    assert [(one.description["until_us"] - START) // DAY for one in found] == [4, 6, 8]


def test_more_folds_than_there_is_past_for_are_refused_with_the_most_that_fit(ten_days: None) -> None:
    with pytest.raises(UserError, match=r"tune.folds is 4; expected at most 3: before a further period"):
        fold_periods(SplitTables.read(), with_folds(4))


def test_a_trial_is_worth_its_mean_over_the_windows(ten_days: None, tracked: Path, monkeypatch) -> None:
    fit, cuts = fitted({2: 0.1, 4: 0.2, 6: 0.6})
    monkeypatch.setattr(trials, "fit", fit)

    study = tune.tune("two_tower", FEATURES, with_folds(3), Budget(1, 600))

    assert cuts == [2, 4, 6]
    assert study.best_value == pytest.approx(geometric_mean([0.3, 0.15]))  # (.1 + .2 + .6) / 3, and half of it


def test_epochs_of_different_windows_are_never_compared(ten_days: None, tracked: Path, monkeypatch) -> None:
    monkeypatch.setattr(trials, "fit", fitted({2: 0.1, 4: 0.2, 6: 0.6})[0])

    study = tune.tune("two_tower", FEATURES, with_folds(3), Budget(1, 600))

    far = trials.FOLD_STEPS
    reported = study.trials[0].intermediate_values
    assert reported == pytest.approx(
        {1: 0.1, 2: 0.1, far + 1: 0.2, far + 2: 0.2, 2 * far + 1: 0.6, 2 * far + 2: 0.6}, rel=1e-4
    )


def test_another_number_of_folds_is_another_study() -> None:
    assert len({study_name("two_tower", FEATURES, with_folds(count)) for count in (1, 2, 3)}) == 3


def test_workers_that_create_the_database_at_once_all_open_it(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/studies.db"
    with ThreadPoolExecutor(8) as pool:
        assert len(list(pool.map(open_storage, [url] * 8))) == 8
