"""A worker counts every request once and reports the counts about once a second."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
import torch
from fake_worker import FakeContext, FakeMetrics, ask, brittle

from serving.worker import worker_metrics
from serving.worker.handler import ARTIFACT, Handler
from serving.worker.worker_metrics import ANSWERS, BATCHES, BUSY, MEMORY, REFUSED, STORE, WorkerMetrics


def test_every_request_of_a_batch_is_counted_by_how_it_ended() -> None:
    handler = brittle()
    ask(handler, {"a": 1}, {"break": 1}, b"{", {"nan": 1})
    ask(handler, {"a": 1})
    taken = handler.metrics.take()
    assert taken.pop((BUSY, None)) > 0
    assert taken == {
        (BATCHES, "4"): 1,
        (BATCHES, "1"): 1,
        (ANSWERS, None): 2,
        (REFUSED, "400"): 1,
        (REFUSED, "500"): 2,
    }
    assert handler.metrics.take() == {}


def test_counts_of_many_threads_add_up() -> None:
    metrics = WorkerMetrics()
    threads = [threading.Thread(target=lambda: [metrics.add(STORE, "failed") for _ in range(5000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert metrics.take() == {(STORE, "failed"): 20_000}


def test_a_loaded_handler_reports_its_counts_by_model_and_version(
    artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_metrics, "REPORT_SECONDS", 0.01)
    monkeypatch.setattr(worker_metrics.sys, "argv", ["worker.py", "--sock-name", "/tmp/.ts.sock.9003"])
    monkeypatch.setenv("TIDEGATE_STORE", f"sqlite:///{tmp_path}/none.db")
    (tmp_path / ARTIFACT).symlink_to(artifacts[1])
    context, handler, threads = FakeContext(tmp_path), Handler(), torch.get_num_threads()
    handler.initialize(context)
    torch.set_num_threads(threads)
    handler.handle([{"body": {"k": 1}}, {"body": {"user_id": "ann"}}, {"body": b"{"}], context)
    reported = wait_for(context.metrics, {ANSWERS, REFUSED, BATCHES, BUSY, STORE, MEMORY})
    model = ["tiny", "7.0"]
    assert reported[ANSWERS] == [(2, [*model, "popular"])]
    assert reported[REFUSED] == [(1, [*model, "400"])]
    assert reported[BATCHES] == [(1, [*model, "3"])]
    assert sum(value for value, labels in reported[STORE] if labels == [*model, "absent"]) >= 1
    assert reported[MEMORY][0][1] == [*model, "9003"]
    assert reported[MEMORY][0][0] > 10_000_000


def wait_for(metrics: FakeMetrics, names: set[str]) -> dict[str, list[tuple[float, list[str]]]]:
    for _ in range(500):
        if all(metrics.reported[name] for name in names):
            return metrics.reported
        threading.Event().wait(0.02)
    raise AssertionError(f"reported only {metrics.reported}")


def test_a_failing_report_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(FakeMetrics):
        def add_metric_to_cache(self, *_: object) -> object:
            return lambda: None  # has no add_or_update

    metrics = WorkerMetrics()
    metrics.start(Refusing(), ("tiny", "1.0"))
    metrics.add(ANSWERS, "popular")
    for _ in range(500):
        if "counts were not reported" in caplog.text:
            return
        threading.Event().wait(0.02)
    raise AssertionError("the failure was not logged")


def test_metric_names_are_valid_for_torchserve_and_prometheus() -> None:
    for name in (*worker_metrics.LABEL, MEMORY):
        assert re.fullmatch(r"tidegate_worker_[a-z_]+_(total|bytes)", name)
