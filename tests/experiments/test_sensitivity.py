"""The card orders models by what they reach, says what is a diagnostic, and finds recipes on the temporal cut alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from made_features import checkerboard, train_settings
from small_pipeline import inside

from config import params
from config.command import UserError
from experiments import sensitivity
from experiments.evaluation.holdout_protocols import Fold
from experiments.leaderboard import sensitivity_card
from training import validation

SETTINGS = params.load(params.ROOT / "params.yaml")
USERS = np.array([0, 0, 1, 2])


def reached(**by_model: list[float]) -> dict:
    """What models reached on four cases of three users."""
    return {label: (np.array(values)[:, None], USERS) for label, values in by_model.items()}


FOUND = {
    "next_item": reached(a=[1, 1, 1, 1], b=[0, 0, 1, 0], c=[0, 0, 0, 0]),
    "horizon": reached(a=[0, 0, 0, 0], b=[1, 1, 1, 1], c=[0, 1, 0, 0]),
    "leave last out": reached(a=[0, 0, 0, 0], b=[0, 1, 0, 0], c=[1, 1, 1, 1]),
}
CARD = sensitivity_card.build(FOUND, num_users=3, seed=0, resamples=100)


def facts() -> dict:
    """A card as the verb writes it."""
    known = {"dataset": "typed <b>", "dataset_hash": "h", "split_id": "s", "valid_start": "v", "test_start": "t"}
    return known | {"commit": "c", "date": "d", "command": "x", "statement": sensitivity_card.NO_GATE} | CARD


def test_a_model_has_the_mean_of_its_cases_and_its_rank() -> None:
    assert CARD["models"]["b"]["next_item"]["mean"] == pytest.approx(1 / 4)
    assert [CARD["models"][label]["next_item"]["rank"] for label in "abc"] == [1, 2, 3]
    assert [CARD["models"][label]["leave last out"]["rank"] for label in "abc"] == [3, 2, 1]


def test_models_stand_in_the_order_of_next() -> None:
    found = {name: dict(reversed(of.items())) for name, of in FOUND.items()}

    assert list(sensitivity_card.build(found, 3, 0, 100)["models"]) == ["a", "b", "c"]


def test_tau_is_of_each_protocol_with_each_target_of_the_temporal_cut() -> None:
    protocols = CARD["protocols"]

    assert protocols["next_item"]["tau"]["next_item"]["tau"] == 1
    assert protocols["leave last out"]["tau"]["next_item"]["tau"] == -1  # c, b, a
    assert protocols["leave last out"]["tau"]["horizon"]["tau"] == pytest.approx(1 / 3)  # c, b, a and b, c, a


def test_only_the_temporal_cut_can_feed_a_gate() -> None:
    assert {name for name, one in CARD["protocols"].items() if one["can_feed_a_gate"]} == {"next_item", "horizon"}


def test_a_protocol_without_cases_is_left_out() -> None:
    empty = {label: (np.zeros((0, 1)), np.zeros(0, np.int64)) for label in "abc"}

    assert "user k-fold" not in sensitivity_card.build(FOUND | {"user k-fold": empty}, 3, 0, 100)["protocols"]


@pytest.mark.parametrize("write", [sensitivity_card.page, sensitivity_card.markdown])
def test_the_card_says_that_all_but_the_temporal_cut_are_diagnostics(write) -> None:
    assert "Every other protocol on this page is a diagnostic and cannot feed a gate." in write(facts())


def test_the_page_fetches_nothing_and_shows_names_as_they_are() -> None:
    page = sensitivity_card.page(facts())

    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", page)
    assert "Split sensitivity of typed &lt;b&gt;" in page


def test_the_bump_chart_draws_the_rank_of_every_model_under_every_protocol() -> None:
    lines = {line.name: dict(zip(line.x, line.y, strict=True)) for line in sensitivity_card.bump(facts()).data}

    assert lines == {label: {name: entry["rank"] for name, entry in of.items()} for label, of in CARD["models"].items()}


# Fitting


def fold(name: str, cut: str, column: str) -> Fold:
    features = checkerboard(cut=cut)
    return Fold(name, features, features, {column: validation.cases(features)["next_item"]})


SMALL = SETTINGS.model_copy(update={"train": train_settings()})


def test_recipes_are_found_in_the_first_fold_and_followed_in_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    fit = sensitivity.fit
    monkeypatch.setattr(sensitivity, "fit", lambda recipe, *rest: asked.append(recipe) or fit(recipe, *rest))

    sensitivity.measure(
        [fold("first", "valid", "next_item"), fold("then", "test", "leave last out")], ["ease", "popularity"], SMALL
    )

    assert asked[0]["l2"] == [200, 1000]
    assert asked[2]["l2"] in (200, 1000)


def test_a_model_that_refuses_a_catalogue_is_left_out_of_every_protocol(capsys: pytest.CaptureFixture[str]) -> None:
    models = SMALL.train.models
    small = models | {"ease": models["ease"].model_copy(update={"max_items": 3})}
    settings = SMALL.model_copy(update={"train": SMALL.train.model_copy(update={"models": small})})

    found = sensitivity.measure([fold("first", "valid", "next_item")], ["ease", "popularity", "item_knn"], settings)

    assert set(found["next_item"]) == {"popularity", "item_knn"}
    assert "sensitivity: ease is left out: ease: 41 items exceed max_items = 3" in capsys.readouterr().out


@pytest.mark.slow
def test_a_learned_model_takes_its_place_beside_the_counted_ones() -> None:
    chosen = SMALL.train.models["two_tower"].model_copy(
        update={"embedding_dim": 16, "num_heads": 2, "max_steps": 60, "max_epochs": 8, "batch_size": 128, "max_history": 8,
                "channels": ["all", "half_life_1d"], "warmup_steps": 10, "learning_rate": 0.01}
    )  # fmt: skip
    train = SMALL.train.model_copy(update={"models": SMALL.train.models | {"two_tower": chosen}})
    settings = SMALL.model_copy(update={"train": train})

    found = sensitivity.measure(
        [fold("first", "valid", "next_item"), fold("then", "test", "leave last out")],
        ["two_tower", "popularity"],
        settings,
    )

    for column in ("next_item", "leave last out"):  # the checkerboard is there to be seen by whoever reads histories
        assert found[column]["two_tower"][0].mean() > found[column]["popularity"][0].mean()


def test_a_hybrid_brings_the_parameters_of_its_parts() -> None:
    assert sensitivity.recipe_of("hybrid", SETTINGS)["parts"]["ease"]["name"] == "ease"


# The command line


def test_labels_that_params_lack_are_left_out_of_the_default_and_refused_when_named() -> None:
    models = {label: SETTINGS.train.models[label] for label in ("popularity", "ease")}
    settings = SETTINGS.model_copy(update={"train": SETTINGS.train.model_copy(update={"models": models})})

    assert sensitivity.asked_of(None, settings) == ["popularity", "ease"]
    with pytest.raises(UserError, match=r"--models ials: train.models holds popularity, ease"):
        sensitivity.asked_of(["ials", "ease"], settings)
    with pytest.raises(UserError, match="1 models have no order; expected at least 2"):
        sensitivity.asked_of(["ease"], settings)


@pytest.mark.slow
def test_the_verb_writes_the_card_of_a_platform_and_says_where(pipeline: Path, capsys: pytest.CaptureFixture) -> None:
    with inside(pipeline):
        assert sensitivity.main([]) == 0

    written = json.loads((pipeline / "out/experiments/sensitivity.json").read_text())
    assert set(written["models"]) == {"popularity", "popularity_7d", "item_knn", "ease"}
    assert len(written["protocols"]) == 7
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("sensitivity: 4 models by 7 protocols; first of each: next_item ")
    assert last.endswith("out/experiments/sensitivity.html")
