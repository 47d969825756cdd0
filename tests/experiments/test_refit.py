"""The champion's recipe on the candidate's data: fitted where it tells something, and named where it was not."""

from __future__ import annotations

import numpy as np
import pytest
from made_features import checkerboard, recipe

from config import params
from experiments.evaluation.scoring import cases_from
from experiments.gating.same_data_refit import asked_of, refit, why_not
from training import validation
from training.train import fit

FEATURES = checkerboard(cut="test")
SHIPPED = params.load(params.ROOT / "params.yaml")
NOW = {"dataset_hash": "none", "fit_until_us": FEATURES.cut_us, "params": {"name": "ease", "l2": 100.0}}
OLD = {"dataset_hash": "older", "fit_until_us": FEATURES.cut_us - 1, "params": {"name": "popularity", "days": None}}


@pytest.mark.parametrize(
    ("candidate", "champion", "asked", "says"),
    [
        (NOW, NOW | {"params": OLD["params"]}, True, "not needed: both were fitted on the same data"),
        (
            NOW,
            OLD | {"params": NOW["params"]},
            True,
            "not needed: the candidate is the champion's recipe on newer data",
        ),
        (NOW | {"fit_until_us": 5}, OLD, True, "not possible"),
        (NOW, OLD, False, "not done: this report cannot tell the idea from the fresher data; ask with --refit"),
        (NOW, OLD, True, None),
    ],
)
def test_the_report_says_why_no_refit_was_done(candidate: dict, champion: dict, asked: bool, says: str | None) -> None:
    reason = why_not(candidate, champion, FEATURES, asked)

    assert reason is None if says is None else (reason or "").startswith(says)


def test_what_a_fit_found_does_not_make_a_recipe_another() -> None:
    found = {"parts": {"two_tower": {"embedding_dim": 64, "best_steps": 300, "train_events": 9}}, "weights": [0.5]}

    assert asked_of(found) == {"parts": {"two_tower": {"embedding_dim": 64}}}


def test_the_refit_stands_between_champion_and_candidate() -> None:
    cases = cases_from(FEATURES, FEATURES.cut_us)
    old = recipe("item_knn")
    again = fit(old, FEATURES, SHIPPED.train, SHIPPED.train.seed).model
    known = {t: validation.ndcg(again, FEATURES, every, FEATURES.trend_log(), 64) for t, every in cases.items()}
    nothing = {t: np.full(len(every), 0.01) for t, every in cases.items()}

    found = refit(old, known, nothing, cases, FEATURES, SHIPPED, looks=1)

    for target, ndcg in known.items():
        assert found["data"][target]["difference"] == pytest.approx(ndcg.mean() - 0.01)
        assert found["idea"][target]["difference"] == 0.0
