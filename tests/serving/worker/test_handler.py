"""Every request of a batch gets its own response or its own error, whatever the others contain."""

from __future__ import annotations

import json
import logging
import re
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_artifact
import torch
from fake_worker import FakeContext, FakeMetrics, ask, brittle

from serving.worker import handler as handler_module
from serving.worker.handler import ANSWERS, ARTIFACT, BATCHES, BUSY, MEMORY, REFUSED, STORE, Handler, WorkerMetrics
from serving.worker.recommender import ArtifactError


@pytest.fixture(scope="module")
def handler(artifacts: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> Handler:
    folder = tmp_path_factory.mktemp("model")
    (folder / ARTIFACT).symlink_to(artifacts[1])
    threads = torch.get_num_threads()
    handler = Handler()
    handler.initialize(FakeContext(folder))
    torch.set_num_threads(threads)
    return handler


def test_a_body_has_the_same_response_in_every_form_that_torchserve_passes(handler: Handler) -> None:
    request = tiny_artifact.GOLDEN[2]
    text = json.dumps(request)
    answers, statuses = ask(handler, request, text, text.encode(), bytearray(text.encode()))
    assert statuses == [200] * 4
    assert all(answer["items"] == answers[0]["items"] for answer in answers)
    form = handler.handle([{"data": text.encode()}], FakeContext())
    assert json.loads(form[0])["items"] == answers[0]["items"]


def test_a_malformed_request_does_not_affect_the_others(handler: Handler) -> None:
    good = {"k": 3, "time": "2026-01-02T00:00:00Z"}
    (alone,), _ = ask(handler, good)
    answers, statuses = ask(handler, good, b'{"k": ', good, {"k": 0}, good)
    assert statuses == [200, 400, 200, 400, 200]
    assert answers[0] == answers[2] == answers[4] == alone
    assert answers[1]["field"] == "body"
    assert answers[3]["field"] == "k"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"\xff\xfe", "body"),
        (b"[" * 100_000, "body"),
        (b"[1, 2]", "body"),
        (b"null", "body"),
        (b'"text"', "body"),
        (b'{"k": "ten"}', "k"),
        (b'{"k": true}', "k"),
        (b'{"k": NaN}', "k"),
        (b'{"user_id": 7}', "user_id"),
        (b'{"history": {}}', "history"),
        (b'{"history": [{"item_id": 5}]}', "history[0].item_id"),
        (b'{"time": "soon"}', "time"),
        (b'{"time": "0001-01-01T00:00:00+14:00"}', "time"),
        (b'{"color": "red"}', "color"),
    ],
)
def test_a_bad_request_is_a_400_that_names_its_field(handler: Handler, body: bytes, field: str) -> None:
    (answer,), (status,) = ask(handler, body)
    assert (status, answer["code"], answer["field"]) == (400, 400, field)
    assert answer["message"]


def test_a_request_without_a_body_is_a_400(handler: Handler) -> None:
    context = FakeContext()
    (answer,) = handler.handle([{"other": b"1"}], context)
    assert context.status == {0: 400}
    assert json.loads(answer)["field"] == "body"


def test_a_response_names_the_version_that_torchserve_serves(handler: Handler) -> None:
    (answer,), _ = ask(handler, {})
    assert answer["model_version"] == "7.0"


def test_half_a_surrogate_pair_is_a_400_that_names_its_field(handler: Handler) -> None:
    (answer,), (status,) = ask(handler, b'{"request_id": "\\ud800"}')
    assert (status, answer["field"]) == (400, "request_id")


def test_an_exception_is_a_500_for_one_request_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    handler = brittle()
    with caplog.at_level(logging.WARNING):
        answers, statuses = ask(handler, {"a": 1}, {"break": 1}, {"a": 2})
    assert statuses == [200, 500, 200]
    assert [answers[0]["echo"], answers[2]["echo"]] == [{"a": 1}, {"a": 2}]
    assert "inside the model" not in json.dumps(answers[1])
    assert "ZeroDivisionError" in caplog.text
    assert handler.recommender.calls == [3, 1, 1, 1]


def test_a_score_that_json_cannot_hold_is_a_500_for_that_request_only() -> None:
    answers, statuses = ask(brittle(), {"a": 1}, {"nan": 1})
    assert statuses == [200, 500]
    assert answers[0]["score"] == 1.0


def test_loading_fails_on_a_changed_weight(artifacts: dict[int, Path], tmp_path: Path) -> None:
    shutil.copytree(artifacts[1], tmp_path / ARTIFACT)
    weights = tmp_path / ARTIFACT / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ValueError, match=r"weights\.safetensors"):
        Handler().initialize(FakeContext(tmp_path))


def test_a_worker_that_answers_differently_than_at_export_never_becomes_ready(artifacts, tmp_path: Path) -> None:
    shutil.copytree(artifacts[1], tmp_path / ARTIFACT)
    golden = tmp_path / ARTIFACT / "golden.jsonl"
    golden.write_text(golden.read_text(encoding="utf-8").replace("item-03", "item-99"), encoding="utf-8")
    tiny_artifact.seal(tmp_path / ARTIFACT)
    with pytest.raises(
        ArtifactError, match=r"golden request \d is answered differently than at export: item-99 is missing"
    ):
        Handler().initialize(FakeContext(tmp_path))


def test_the_worker_uses_one_thread(artifacts: dict[int, Path], tmp_path: Path) -> None:
    (tmp_path / ARTIFACT).symlink_to(artifacts[1])
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        Handler().initialize(FakeContext(tmp_path))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)


def test_per_request_lines_of_torchserve_are_not_logged(handler: Handler) -> None:
    root = logging.getLogger()
    noise = SimpleNamespace(msg="Backend received inference at: %d", levelno=20)
    assert not root.filter(logging.makeLogRecord(vars(noise)))
    assert root.filter(logging.makeLogRecord({"msg": "Torch worker started."}))


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
    monkeypatch.setattr(handler_module, "REPORT_SECONDS", 0.01)
    monkeypatch.setattr(handler_module.sys, "argv", ["worker.py", "--sock-name", "/tmp/.ts.sock.9003"])
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
    for name in (*handler_module.LABEL, MEMORY):
        assert re.fullmatch(r"tidegate_worker_[a-z_]+_(total|bytes)", name)
