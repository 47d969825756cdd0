"""Threads sleep while they wait, on the cores that nobody else uses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from config import threads

ROOT = Path(__file__).resolve().parents[2]
# Modules in which models are fitted, tuned, measured or timed.
COMPUTING = (
    "training.train", "experiments.tune", "experiments.evaluate", "experiments.gate", "experiments.refit_full",
    "serving.export", "benchmarks.ncf_paper", "benchmarks.training",
)  # fmt: skip
SEEN = """
import importlib.abc, os, sys
class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"), os.environ.get("KMP_BLOCKTIME"))
            os._exit(0)
sys.meta_path.insert(0, Watch())
import {module}
print("no torch")
"""


@pytest.mark.parametrize("module", COMPUTING)
def test_waiting_threads_sleep_in_every_command_that_computes(module: str) -> None:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "KMP_"))}
    code = SEEN.replace("os._exit(0)", "sys.stdout.flush(); os._exit(0)").format(module=module)
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=own, capture_output=True, text=True)

    assert ended.stdout.strip() == "PASSIVE 0", ended.stderr


def test_at_least_one_core_and_at_most_all_are_free() -> None:
    assert 1 <= threads.free_cores() <= (os.cpu_count() or 1)


def test_a_core_that_another_process_uses_is_not_free(monkeypatch: pytest.MonkeyPatch) -> None:
    cores = os.cpu_count() or 1
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    for others, free in ((0, cores), (1, max(1, cores - 1)), (cores, 1)):
        monkeypatch.setattr(threads, "_last", (0.0, 0.0))
        monkeypatch.setattr(threads, "_observe", lambda others=others: (10.0, 10.0 * others))
        assert threads.free_cores() == free


def test_where_the_system_does_not_say_all_cores_count_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "CPU_TIMES", "/nowhere")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert threads.free_cores() == 3
