"""What a refit is held to: its parent's recipe and lists, the newest requests, and nothing that it could have learned."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from made_features import START, checkerboard, recipe, train_settings

from config import params
from config.paths import ROOT
from data.columns import DAY
from experiments import retrain
from experiments.orchestration import steps
from experiments.retraining import refit_checks
from experiments.retraining.refit_checks import estranged, newest_cases, overlap
from training.train import fit

SHIPPED = params.load(ROOT / "params.yaml")
STATED = {"dataset_hash": "d", "split_id": "s", "commit": "c", "lock_hash": "l", "label": "ours", "params": {"embedding_dim": 8},
          "seed": 0}  # fmt: skip


@pytest.mark.parametrize(("name", "told"), refit_checks.OF_MANIFEST.items())
def test_a_refit_departs_from_its_parent_by_each_thing_that_they_must_share(name: str, told: str) -> None:
    assert refit_checks.departures(STATED, STATED, refit_checks.OF_MANIFEST) == []

    (line,) = refit_checks.departures(STATED, STATED | {name: "another"}, refit_checks.OF_MANIFEST)
    assert line == f"its {told} is another, its parent's {STATED[name]}"


def test_what_a_parent_does_not_state_is_not_taken_for_equal() -> None:
    for commit in (None, "unknown"):
        unknown = STATED | {"commit": commit}
        assert refit_checks.departures(unknown, unknown, refit_checks.OF_MANIFEST) == [
            "its code commit is not known, its parent's not known"
        ]


def test_overlap_is_the_share_of_the_parents_list() -> None:
    theirs = np.array([[1, 2, 3, 4], [1, 2, -1, -1], [-1, -1, -1, -1]])
    ours = np.array([[4, 3, 9, 8], [2, 7, -1, -1], [1, 2, 3, 4]])

    np.testing.assert_array_equal(overlap(theirs, ours), [2 / 4, 1 / 2, np.nan])


def test_the_newest_requests_see_nothing_of_their_own_moment() -> None:
    features = checkerboard(cut="full")
    cases = newest_cases(features, 50)
    newest = np.sort(features.log.times)[-50]

    assert len(cases) == 50
    assert (cases.time >= newest).all()
    assert (features.log.times[np.maximum(cases.end - 1, 0)] < cases.time).all()
    assert len(newest_cases(features, 10**6)) == len(features.log.times), "of fewer, all"


@pytest.mark.parametrize(("requests", "share", "verdict"), [(9, 0.3, None), (9, 0.29, "REJECT"), (0, 1.0, "REJECT")])
def test_a_refit_that_lists_something_else_is_rejected(requests: int, share: float, verdict: str | None) -> None:
    bar = SHIPPED.retrain.model_copy(update={"refit_overlap": 0.3})
    decided = estranged({"requests": requests, "overlap": share}, bar)

    assert (decided and decided.verdict) == verdict
    if decided:
        assert (
            f"share {share:.3f} of its parent's 10 items on {requests} recent requests; at least 0.3" in decided.reason
        )


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("two_tower", "hybrid")]


@pytest.mark.parametrize("name", ["ease", *SLOW])
def test_after_all_events_a_recipe_is_followed_and_nothing_is_searched(name: str) -> None:
    settings = train_settings()
    asked = recipe(
        name, **({"parts": {"two_tower": recipe("two_tower"), "ease": recipe("ease")}} if name == "hybrid" else {})
    )
    found = fit(asked, checkerboard(), settings, 0).recipe
    features = checkerboard(cut="full")
    full = replace(features, description=features.description | {"cut_us": START + 40 * DAY})
    result = fit(found, full, settings, 0)

    assert result.recipe == found
    assert result.validation == {}
    if name == "two_tower":
        events = int((full.past.items != 0).sum())
        assert result.curves[-1]["step"] == round(found["best_steps"] * events / found["train_events"])


PROMOTED, HELD = {"verdict": "PROMOTE"}, {"verdict": "HOLD"}


@pytest.mark.parametrize(
    ("refit", "report", "no_deploy", "ran"),
    [
        ("gated", PROMOTED, False, ["fill the online store", "deploy"]),
        ("full", HELD, False, ["fill the online store", "deploy"]),
        ("full", PROMOTED, False, ["fill the online store", "deploy", "refit on all events", "deploy"]),
        ("full", PROMOTED, True, ["refit on all events"]),
    ],
)
def test_retraining_refits_what_was_promoted_where_params_say_so(
    refit: str, report: dict, no_deploy: bool, ran: list[str], tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out/experiments").mkdir(parents=True)
    (tmp_path / "out/experiments/gate.json").write_text(json.dumps(report))
    text = (ROOT / "params.yaml").read_text()
    assert "  refit: gated" in text
    (tmp_path / "params.yaml").write_text(text.replace("  refit: gated", f"  refit: {refit}"))
    asked: list[str] = []
    monkeypatch.setattr(steps, "step", lambda title, *_: asked.append(title))

    retrain.serve(tmp_path, "shop", {}, no_deploy)

    assert asked == ran
