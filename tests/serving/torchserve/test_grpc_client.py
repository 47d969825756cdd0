"""Answers and refusals over gRPC are those of HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_artifact

from serving import ask
from serving.artifact import archive
from serving.settings import ServerSettings
from serving.torchserve.client import ServerError, TorchServe
from serving.torchserve.grpc_client import GrpcTorchServe

NAME = "tiny"


def test_an_unreachable_server_is_an_error_without_a_status() -> None:
    tokens = TorchServe("http://127.0.0.1:9", "http://127.0.0.1:9", key_file=None)
    with GrpcTorchServe("127.0.0.1:9", tokens, seconds=2) as client, pytest.raises(ServerError) as refused:
        client.predict(NAME, {})

    assert refused.value.status is None
    assert str(refused.value).startswith("127.0.0.1:9 answered UNAVAILABLE: ")


@pytest.fixture(scope="module")
def loaded(live: ServerSettings, artifacts: dict[int, Path]) -> ServerSettings:
    """A running server with one model, loaded without a registry."""
    archive.build_archive(artifacts[1], live.model_store / f"{NAME}.mar", NAME)
    with TorchServe.from_settings(live) as client:
        client.register(f"{NAME}.mar", NAME)
    return live


@pytest.fixture
def client(loaded: ServerSettings) -> Iterator[GrpcTorchServe]:
    with GrpcTorchServe.from_settings(loaded) as client:
        yield client


@pytest.mark.slow
def test_answers_equal_those_of_http(loaded: ServerSettings, client: GrpcTorchServe) -> None:
    with TorchServe.from_settings(loaded) as over_http:
        for request in tiny_artifact.GOLDEN:
            assert client.predict(NAME, request) == over_http.predict(NAME, request)
            assert client.predict(NAME, request, archive.UNREGISTERED) == over_http.predict(NAME, request)


@pytest.mark.slow
def test_the_ask_command_can_use_grpc(
    loaded: ServerSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("serving.settings.load", lambda: loaded)
    assert ask.main(["--dataset", NAME, "--k", "2", "--grpc"]) == 0
    assert f"2 items from {NAME} version 0.0" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "payload", "version", "status"),
    [
        (NAME, {"k": 0}, None, 400),
        (NAME, b'{"k": ', None, 400),
        ("nobody", {}, None, 404),
        (NAME, {}, "9.0", 404),
    ],
)
def test_a_refusal_has_the_status_that_it_has_over_http(
    loaded: ServerSettings, client: GrpcTorchServe, name: str, payload: object, version: str | None, status: int
) -> None:
    with pytest.raises(ServerError) as by_grpc:
        client.predict(name, payload, version)
    with TorchServe.from_settings(loaded) as over_http, pytest.raises(ServerError) as by_http:
        over_http.predict(name, payload, version)

    assert by_grpc.value.status == by_http.value.status == status
    if status == 400:
        assert by_grpc.value.body == by_http.value.body


@pytest.mark.slow
def test_a_missed_deadline_is_an_error_without_a_status(client: GrpcTorchServe) -> None:
    client.seconds = 0.0001
    with pytest.raises(ServerError, match="DEADLINE_EXCEEDED") as late:
        client.predict(NAME, {})

    assert late.value.status is None


@pytest.mark.slow
def test_a_renewed_or_expired_token_is_replaced(loaded: ServerSettings, client: GrpcTorchServe) -> None:
    client.predict(NAME, {})
    with TorchServe.from_settings(loaded) as other:
        other.renew_token("inference")  # makes the token of `client` invalid
    assert client.predict(NAME, {"k": 1})["items"]
    keys = json.loads(loaded.key_file.read_text(encoding="utf-8"))
    keys["inference"]["key"] = "expired1"
    loaded.key_file.chmod(0o600)
    loaded.key_file.write_text(json.dumps(keys), encoding="utf-8")  # now only a renewal helps
    client.tokens._tokens.clear()
    assert client.predict(NAME, {"k": 1})["items"]
