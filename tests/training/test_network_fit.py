"""Training repeats itself under a seed, keeps its best weights, and at `test` takes the steps that `valid` found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from made_features import checkerboard, recipe, train_settings

from training.fitting import fit, validation_scores
from training.metrics import geometric_mean
from training.models.base import ModelError
from training.network_fit import train_network

SETTINGS = train_settings()


def test_the_same_seed_trains_the_same_weights() -> None:
    first, again, other = (
        train_network(recipe("two_tower", max_epochs=1), checkerboard(), SETTINGS, seed).model.state_dict()
        for seed in (1, 1, 2)
    )

    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("name", "loss"),
    [("two_tower", "full_softmax"), ("two_tower", "in_batch"), ("neural_cf", "sampled_softmax"), ("neural_cf", "bce")],
)
def test_every_loss_learns(name: str, loss: str) -> None:
    rows: list[dict] = []
    result = fit(recipe(name, loss=loss, max_epochs=12), checkerboard(), SETTINGS, 0, rows.append)
    untrained = fit(recipe(name, loss=loss, max_steps=1), checkerboard(), SETTINGS, 0)

    assert rows == result.curves
    assert set(rows[0]) == {"step", "epoch", "train/loss", "valid/next_item/ndcg_10", "valid/horizon/ndcg_10"}
    assert result.validation["next_item"] > 1.3 * untrained.validation["next_item"]


def test_the_best_epochs_weights_are_kept() -> None:
    result = train_network(recipe("two_tower"), checkerboard(), SETTINGS, 0)
    means = [geometric_mean([row["valid/horizon/ndcg_10"], row["valid/next_item/ndcg_10"]]) for row in result.curves]
    best = result.curves[int(np.argmax(means))]

    assert result.hyperparameters["best_steps"] == best["step"]
    again = validation_scores(result.model, checkerboard(), SETTINGS, 0)
    assert again == pytest.approx({target: best[f"valid/{target}/ndcg_10"] for target in again}, abs=1e-6)


def test_it_stops_when_patience_is_spent() -> None:
    slow = recipe("two_tower", learning_rate=1e-9, max_epochs=8, patience=2)
    result = train_network(slow, checkerboard(), SETTINGS, 0)

    assert len(result.curves) < 8
    best = [row["step"] for row in result.curves].index(result.hyperparameters["best_steps"])
    assert len(result.curves) - 1 - best == 2


def test_on_epoch_can_stop_it_with_the_best_weights_so_far() -> None:
    stopped = train_network(
        recipe("two_tower", max_epochs=8), checkerboard(), SETTINGS, 0, lambda row: row["epoch"] == 2
    )
    alone = train_network(recipe("two_tower", max_epochs=2), checkerboard(), SETTINGS, 0)

    assert [row["epoch"] for row in stopped.curves] == [1, 2]
    assert stopped.hyperparameters["best_steps"] == alone.hyperparameters["best_steps"]
    assert all(torch.equal(value, alone.model.state_dict()[name]) for name, value in stopped.model.state_dict().items())


def test_out_of_time_it_stops_at_the_next_batch_and_is_validated() -> None:
    result = fit(recipe("two_tower", batch_size=64), checkerboard(), SETTINGS, 0, deadline=0.0)

    (row,) = result.curves
    assert row["step"] == 1, "an epoch has more batches"
    assert row["valid/next_item/ndcg_10"] >= 0
    assert result.hyperparameters["best_steps"] == 1


def test_it_stops_at_max_steps_with_weights_that_were_validated() -> None:
    result = train_network(recipe("two_tower", max_steps=3), checkerboard(), SETTINGS, 0)

    assert [row["step"] for row in result.curves] == [3]
    assert result.hyperparameters["best_steps"] == 3


def test_at_the_test_cut_steps_grow_with_the_events_and_nothing_is_validated() -> None:
    features = checkerboard(cut="test")
    events = int((features.past.items != 0).sum())
    found = recipe("two_tower", max_steps=5) | {"best_steps": 10, "train_events": events // 2}
    result = fit(found, features, SETTINGS, 0)

    assert result.curves[-1]["step"] == pytest.approx(10 * events / (events // 2), abs=0.51)
    assert result.validation == {}
    assert result.hyperparameters == found


def test_nothing_is_written_beside_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train_network(recipe("two_tower", max_epochs=1), checkerboard(), SETTINGS, 0)

    assert not list(tmp_path.iterdir())


def test_no_events_is_an_error_that_says_so() -> None:
    features = checkerboard()
    features.description["cut_us"] = 0

    with pytest.raises(ModelError, match="no event lies before the cut"):
        train_network(recipe("two_tower"), features, SETTINGS, 0)


@pytest.mark.parametrize(("name", "loss"), [("two_tower", "in_batch"), ("neural_cf", "sampled_softmax")])
@pytest.mark.parametrize("cut", ["valid", "test"])
def test_an_interrupted_fit_continues_to_the_same_weights(tmp_path: Path, name: str, loss: str, cut: str) -> None:
    hyperparameters = recipe(name, loss=loss, max_epochs=5)
    hyperparameters |= {"best_steps": 40, "train_events": 700} if cut == "test" else {}
    seen: list[int] = []

    def killed_in_the_third(row: dict) -> None:
        if row["epoch"] == 3:
            raise KeyboardInterrupt

    whole = train_network(hyperparameters, checkerboard(cut=cut), SETTINGS, 0)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train_network(hyperparameters, checkerboard(cut=cut), SETTINGS, 0, killed_in_the_third, tmp_path)
    resumed = train_network(
        hyperparameters, checkerboard(cut=cut), SETTINGS, 0, lambda row: seen.append(row["epoch"]), tmp_path
    )

    assert seen[0] == 3
    assert resumed.curves == whole.curves
    states = resumed.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_fit_does_not_continue_from_the_checkpoint_of_other_hyperparameters(tmp_path: Path) -> None:
    hyperparameters = recipe("two_tower", max_epochs=3)

    def killed(row: dict) -> None:
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        train_network(hyperparameters, checkerboard(), SETTINGS, 0, killed, tmp_path)
    other = train_network(hyperparameters | {"dropout": 0.0}, checkerboard(), SETTINGS, 0, None, tmp_path)

    assert [row["epoch"] for row in other.curves] == [1, 2, 3]
    assert len(list(tmp_path.rglob("*.ckpt"))) == 1  # the killed one may still continue
