"""Batches on all cores: every part once, as one after the other would have it, and an error ends it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
import torch

from training.models.layers import add_trends
from training.threads import free_cores, run_in_threads, torch_threads


@pytest.fixture(params=[1, 2, 5])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    with torch_threads(request.param):
        yield request.param


def test_every_part_is_worked_once_without_gradients_and_torch_has_its_threads_back(threads: int) -> None:
    done, modes, own = [0] * 100, set(), set()

    def work(part: int) -> None:
        done[part] += 1
        modes.add(torch.is_inference_mode_enabled())
        own.add(torch.get_num_threads())

    run_in_threads(iter(range(100)), work)

    assert done == [1] * 100
    assert modes == {True}
    assert own == {1}
    assert torch.get_num_threads() == threads


def test_no_more_parts_exist_than_threads(threads: int) -> None:
    alive, most, lock = 0, 0, threading.Lock()

    def parts() -> Iterator[int]:
        nonlocal alive, most
        for number in range(50):
            with lock:
                alive += 1
                most = max(most, alive)
            yield number

    def work(part: int) -> None:
        nonlocal alive
        torch.randn(200, 200) @ torch.randn(200, 200)
        with lock:
            alive -= 1

    run_in_threads(parts(), work, max_threads=3)

    assert most <= min(threads, 3)


@pytest.mark.parametrize("place", ["drawing", "working"])
def test_an_error_is_raised_and_ends_the_work(threads: int, place: str) -> None:
    begun = []

    def parts() -> Iterator[int]:
        for number in range(1000):
            if place == "drawing" and number == 3:
                raise ValueError("number 3")
            yield number

    def work(part: int) -> None:
        begun.append(part)
        if place == "working" and part == 3:
            raise ValueError("number 3")
        time.sleep(0.002)

    with pytest.raises(ValueError, match="number 3"):
        run_in_threads(parts(), work)
    assert len(begun) < 500


def test_trends_are_added_alike_whether_moments_come_in_order_or_not() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, weights = torch.randn(40, 30, generator=generator), torch.randn(40, 3, generator=generator)
    trends, moment = torch.randn(5, 3, 30, generator=generator), torch.arange(5).repeat_interleave(8)
    mixed = torch.randperm(40, generator=generator)

    in_order = add_trends(scores, weights, trends, moment)
    expected = scores + torch.einsum("qc,qcn->qn", weights, trends[moment])

    torch.testing.assert_close(in_order, expected)
    torch.testing.assert_close(add_trends(scores[mixed], weights[mixed], trends, moment[mixed]), expected[mixed])


def test_cores_that_other_processes_use_are_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    for busy_percent, free in ((0, 4), (25, 3), (100, 1)):
        monkeypatch.setattr(psutil, "cpu_percent", lambda interval, busy=busy_percent: busy)
        assert free_cores() == free
