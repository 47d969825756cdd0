"""Two processes that share a fit train what one process does, and if one of them dies the fit ends with an error."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from made_features import checkerboard, recipe, train_settings
from torch import Tensor
from two_processes import end_in_the_second, report_and_wait

from training import distributed, network_fit
from training.distributed import DevicesError, run_in_processes
from training.network_fit import TrainedNetwork, device_options, train_network

SETTINGS = train_settings()
DRIFTING = {"tail.3.bias"}  # added to all scores alike, so a softmax gives it no gradient but rounding
DROPOUT = recipe("two_tower", dropout=0.5, max_epochs=1)
CASES = {
    "in_batch": ("two_tower", "in_batch"),
    "sampled_softmax": ("neural_cf", "sampled_softmax"),
    "bce": ("neural_cf", "bce"),
    "sasrec": ("sasrec", "full_softmax"),
}
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


def fit_each(report: Callable[[dict], bool], tasks: list[tuple]) -> list[TrainedNetwork]:
    """Several fits, one after the other, of the same processes: starting them takes longer than a fit."""
    return [network_fit._train(report, *task, None, 2, None) for task in tasks]


@pytest.fixture(scope="module")
def shared() -> dict[str, TrainedNetwork]:
    """What two processes trained, by case."""
    chosen = {case: recipe(name, loss=loss, dropout=0.0, max_epochs=4) for case, (name, loss) in CASES.items()}
    chosen["dropout"] = DROPOUT
    tasks = [(hyperparameters, checkerboard(), SETTINGS, 3) for hyperparameters in chosen.values()]
    return dict(zip(chosen, run_in_processes(2, fit_each, None, tasks), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_have_the_loss_and_the_weights_of_one(shared: dict[str, TrainedNetwork], case: str) -> None:
    name, loss = CASES[case]
    assert_same(shared[case], fitted(recipe(name, loss=loss)))


@pytest.mark.slow
def test_dropout_differs_between_processes(shared: dict[str, TrainedNetwork]) -> None:
    alone = train_network(DROPOUT, checkerboard(), SETTINGS, 3)

    assert shared["dropout"].curves[0]["train/loss"] != pytest.approx(alone.curves[0]["train/loss"], rel=1e-4)


@pytest.mark.slow
def test_a_shared_fit_reports_each_epoch_once_and_leaves_this_process_as_it_was() -> None:
    before, reported = dict(os.environ), []
    hyperparameters = recipe("two_tower", loss="full_softmax")
    trained = fitted(hyperparameters, num_devices=2, on_epoch=reported.append)

    assert_same(trained, fitted(hyperparameters))
    assert reported == trained.curves
    assert not multiprocessing.active_children()
    before.pop("PL_GLOBAL_SEED", None)  # of whatever this process fitted last
    assert {name: os.environ[name] for name in before} == before
    assert torch.get_num_threads() == 1


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_fit_with_one_line_and_another_fit_continues_it(tmp_path: Path) -> None:
    def kill_in_the_third(row: dict) -> None:
        if row["epoch"] == 3:
            max(multiprocessing.active_children(), key=lambda process: process.pid or 0).kill()

    hyperparameters, seen = recipe("two_tower"), []
    with pytest.raises(DevicesError, match=r"^TIDEGATE_DEVICES: process 1 terminated with signal SIGKILL; if memory"):
        fitted(hyperparameters, num_devices=2, on_epoch=kill_in_the_third, checkpoints=tmp_path)
    assert not multiprocessing.active_children()
    resumed = fitted(hyperparameters, on_epoch=seen.append, checkpoints=tmp_path)

    assert [row["epoch"] for row in seen] == [3, 4]
    assert_same(resumed, fitted(hyperparameters))
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.slow
def test_an_interrupt_ends_the_processes() -> None:
    def interrupt(row: dict) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_in_processes(2, report_and_wait, interrupt)
    assert not multiprocessing.active_children()


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
