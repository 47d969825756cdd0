"""A handler's surroundings without TorchServe, and a recommender that fails on request."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from serving.worker.handler import Handler


class FakeMetrics:
    """TorchServe's metrics cache: metric -> reported (value, labels)."""

    def __init__(self) -> None:
        self.reported: dict[str, list[tuple[float, list[str]]]] = {}

    def add_metric_to_cache(self, name: str, unit: str, labels: list[str], kind: object) -> SimpleNamespace:
        reported = self.reported.setdefault(name, [])
        return SimpleNamespace(add_or_update=lambda value, values: reported.append((value, values)))


class FakeContext:
    """What the handler uses of TorchServe's Context."""

    def __init__(self, model_dir: Path | None = None, version: str = "7.0") -> None:
        self.model_name = "tiny"
        self.manifest = {"model": {"modelVersion": version}}
        self.system_properties = {"model_dir": str(model_dir)}
        self.metrics = FakeMetrics()
        self.status: dict[int, int] = {}
        self.content_type: dict[int, str] = {}

    def set_response_status(self, code: int, phrase: str, idx: int) -> None:
        assert phrase.isascii()  # TorchServe states its length in characters and sends it in bytes
        self.status[idx] = code

    def set_response_content_type(self, idx: int, value: str) -> None:
        self.content_type[idx] = value


def ask(handler: Handler, *bodies: object) -> tuple[list[dict], list[int]]:
    """Bodies and statuses of one batch's responses."""
    context = FakeContext()
    answers = handler.handle([{"body": body} for body in bodies], context)
    assert set(context.content_type.values()) == {"application/json"}
    assert len(answers) == len(context.content_type) == len(bodies)
    return [json.loads(answer) for answer in answers], [context.status.get(row, 200) for row in range(len(bodies))]


class Brittle:
    """A recommender that fails on one request, and so on every batch that contains it."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def recommend(self, requests: list[dict]) -> list[dict]:
        self.calls.append(len(requests))
        if any("break" in request for request in requests):
            raise ZeroDivisionError("inside the model")
        return [{"echo": request, "score": float("nan") if "nan" in request else 1.0} for request in requests]


def brittle() -> Handler:
    handler = Handler()
    handler.recommender = Brittle()
    return handler
