"""Two processes that share a fit train what one process does, and if one of them dies the fit ends with an error."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from made_features import checkerboard, recipe, train_settings
from torch import Tensor

from training import distributed
from training.distributed import DevicesError, run_in_processes
from training.network_fit import TrainedNetwork, device_options, train_network

SETTINGS = train_settings()
DRIFTING = {"tail.3.bias"}  # added to all scores alike, so a softmax gives it no gradient but rounding
COMPARED = ("train/loss", "valid/next_item/ndcg_10", "valid/horizon/ndcg_10")


def fitted(hyperparameters: dict, **options: object) -> TrainedNetwork:
    """A fit with few epochs, from one seed."""
    return train_network(hyperparameters | {"dropout": 0.0, "max_epochs": 4}, checkerboard(), SETTINGS, 3, **options)


def comparable(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights that scores depend on: adding to all keys of an attention alike changes none of its shares."""
    kept = {name: value for name, value in state.items() if name not in DRIFTING and value.numel()}
    for name in [name for name in kept if name.endswith("project.bias")]:
        query, _, value = kept[name].chunk(3)
        kept[name] = torch.cat([query, value])
    return kept


def assert_same(shared: TrainedNetwork, alone: TrainedNetwork) -> None:
    """The same but for rounding in float32: the loss and the scores of every epoch, and the weights in the end."""
    for row, expected in zip(shared.curves, alone.curves, strict=True):
        assert [row[name] for name in COMPARED] == pytest.approx([expected[name] for name in COMPARED], rel=1e-4)
    weights = comparable(shared.model.state_dict())
    for name, expected in comparable(alone.model.state_dict()).items():
        assert weights[name] == pytest.approx(expected, rel=1e-4, abs=1e-4 * float(expected.abs().max())), name


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("two_tower", "full_softmax"),
        *(
            pytest.param(*one, marks=pytest.mark.slow)
            for one in [
                ("two_tower", "in_batch"),
                ("neural_cf", "sampled_softmax"),
                ("neural_cf", "bce"),
                ("sasrec", "full_softmax"),
            ]
        ),
    ],
)
def test_two_processes_have_the_loss_and_the_weights_of_one(name: str, loss: str) -> None:
    before, reported = dict(os.environ), []
    shared = fitted(recipe(name, loss=loss), num_devices=2, on_epoch=reported.append)

    assert_same(shared, fitted(recipe(name, loss=loss)))
    assert reported == shared.curves, "each epoch is reported once"
    assert not multiprocessing.active_children()
    before.pop("PL_GLOBAL_SEED", None)  # of whatever this process fitted last
    assert {name: os.environ[name] for name in before} == before
    assert torch.get_num_threads() == 1


@pytest.mark.slow
def test_dropout_differs_between_processes() -> None:
    hyperparameters = recipe("two_tower", dropout=0.5, max_epochs=1)
    alone, shared = (
        train_network(hyperparameters, checkerboard(), SETTINGS, 3, num_devices=number) for number in (1, 2)
    )

    assert shared.curves[0]["train/loss"] != pytest.approx(alone.curves[0]["train/loss"], rel=1e-4)


@pytest.mark.slow
def test_one_process_continues_what_two_were_interrupted_in(tmp_path: Path) -> None:
    def killed_in_the_third(row: dict) -> None:
        if row["epoch"] == 3:
            raise KeyboardInterrupt

    hyperparameters, seen = recipe("two_tower"), []
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fitted(hyperparameters, num_devices=2, on_epoch=killed_in_the_third, checkpoints=tmp_path)
    resumed = fitted(hyperparameters, on_epoch=seen.append, checkpoints=tmp_path)

    assert [row["epoch"] for row in seen] == [3, 4]
    assert_same(resumed, fitted(hyperparameters))
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_fit_with_one_line() -> None:
    def kill_the_second(row: dict) -> None:
        max(multiprocessing.active_children(), key=lambda process: process.pid or 0).kill()

    with pytest.raises(DevicesError, match=r"^TIDEGATE_DEVICES: process 1 terminated with signal SIGKILL; if memory"):
        fitted(recipe("two_tower"), num_devices=2, on_epoch=kill_the_second)
    assert not multiprocessing.active_children()


def end_in_the_second(report: Callable[[dict], bool]) -> None:
    """Work of two processes, of which one dies and the other waits for it."""
    if os.environ["RANK"] == "1":
        os._exit(3)
    time.sleep(600)


@pytest.mark.slow
def test_a_process_that_dies_while_it_starts_is_not_waited_for() -> None:
    with pytest.raises(DevicesError, match="process 1 terminated with exit code 3"):
        run_in_processes(2, end_in_the_second, None)


def test_more_devices_than_there_are_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    with pytest.raises(DevicesError, match="TIDEGATE_DEVICES is 2; this machine has 1 GPUs"):
        fitted(recipe("two_tower"), num_devices=2)


@pytest.mark.parametrize("devices", [1, 2])
def test_only_a_gpu_computes_in_bfloat16(monkeypatch: pytest.MonkeyPatch, devices: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_options(devices)["precision"] == "32-true"

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert device_options(devices)["precision"] == "bf16-mixed"


def test_devices_are_one_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIDEGATE_DEVICES", raising=False)
    assert distributed.num_devices() == 1

    monkeypatch.setenv("TIDEGATE_DEVICES", "2")
    assert distributed.num_devices() == 2


@pytest.mark.parametrize("value", ["0", "two"])
def test_a_number_of_devices_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("TIDEGATE_DEVICES", value)

    with pytest.raises(DevicesError, match=f"TIDEGATE_DEVICES is '{value}'; "):
        distributed.num_devices()
