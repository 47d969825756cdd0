"""A command line becomes a request."""

from __future__ import annotations

import pytest

from data.columns import DAY
from serving.ask import main, render_table


def asked(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict:
    """The request that the command sends."""
    from serving.torchserve.client import TorchServe

    sent = {}

    def predict(self, name: str, payload: dict, version: str | None = None) -> dict:
        sent.update(name=name, payload=payload, version=version)
        return {"items": [], "source": "popular", "reason": "-", "model_version": "1.0", "trends_time": "-"}

    monkeypatch.setattr(TorchServe, "predict", predict)
    monkeypatch.setattr("serving.ask.time.time_ns", lambda: 20_000 * DAY * 1000)
    assert main(["--dataset", "tiny", *arguments]) == 0
    return sent


def test_plain_items_happened_a_minute_apart_until_now(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = asked(monkeypatch, "--user", "u1", "--history", "007,x@2024-01-01T00:00:00Z,9", "--k", "3")["payload"]
    assert payload == {
        "k": 3,
        "user_id": "u1",
        "history": [
            {"item_id": "007", "event_time": "2024-10-03T23:57:00Z"},
            {"item_id": "x", "event_time": "2024-01-01T00:00:00Z"},
            {"item_id": "9", "event_time": "2024-10-03T23:59:00Z"},
        ],
    }


def test_context_and_version_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = asked(monkeypatch, "--context", "device=tv", "age=a=b", "--version", "2.0")
    assert sent["payload"]["context"] == {"device": "tv", "age": "a=b"}
    assert (sent["name"], sent["version"]) == ("tiny", "2.0")


def test_a_mistake_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dataset", "tiny", "--context", "tv"]) == 2
    assert capsys.readouterr().err == "error: --context is 'tv'; expected name=value\n"


def test_an_item_without_a_title_is_printed_without_one() -> None:
    answer = {
        "items": [
            {"item_id": "7", "score": 1.5, "title": None},
            {"item_id": "8", "score": 1, "title": "Eight"},
        ],
        "source": "popular",
        "reason": "the history is empty",
    }
    first, second, last = render_table(answer).splitlines()
    assert first.split() == ["1", "1.5000", "7"]
    assert second.split() == ["2", "1.0000", "8", "Eight"]
    assert last == "popular: the history is empty"
