"""A client of TorchServe's gRPC inference API.

TorchServe 0.12 drops the status that a handler sets. Over gRPC, a request that the handler refuses comes back like any
other answer, so its body decides here.
"""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any

import grpc

from serving.settings import ServerSettings
from serving.torchserve.client import INFERENCE, MAX_REFUSALS, ServerError, TorchServe
from serving.torchserve.inference_pb2 import PredictionsRequest
from serving.torchserve.inference_pb2_grpc import InferenceAPIsServiceStub

INPUT = "data"  # where the handler looks for what a client sent
# gRPC status -> HTTP status of the same refusal; None where there was no answer.
STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.PERMISSION_DENIED: 400,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: None,
    grpc.StatusCode.DEADLINE_EXCEEDED: None,
}
NOT_FOUND = ("ModelNotFoundException", "ModelVersionNotFoundException")  # its code is INTERNAL, with this in the text


class GrpcTorchServe:
    """A client of one TorchServe's gRPC port; safe to use from several threads.

    Args:
        address: host:port.
        tokens: the HTTP client, which holds the tokens of both protocols; closed with this client.
        seconds: the default deadline of a request.
    """

    def __init__(self, address: str, tokens: TorchServe, seconds: float = 15) -> None:
        self._address, self._tokens, self._seconds = address, tokens, seconds
        # No proxy: the server is on loopback or in the same cluster.
        self._channel = grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)])
        self._stub = InferenceAPIsServiceStub(self._channel)

    @classmethod
    def from_settings(cls, settings: ServerSettings) -> GrpcTorchServe:
        """A client of this project's own server."""
        address = f"{settings.host}:{settings.grpc_inference_port}"
        return cls(address, TorchServe.from_settings(settings), settings.answer_seconds + 5)

    def __enter__(self) -> GrpcTorchServe:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._channel.close()
        self._tokens.close()

    def predict(self, name: str, payload: Any, version: str | None = None, seconds: float | None = None) -> dict:
        """The answer to one request.

        Args:
            payload: any JSON value, or bytes that are sent unchanged.
            seconds: deadline; None takes the client's.

        Raises:
            ServerError: with the status that the refusal has over HTTP.
        """
        content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        request = PredictionsRequest(model_name=name, model_version=version or "", input={INPUT: content})
        for refusals in range(MAX_REFUSALS):
            try:
                metadata = self._metadata(refusals)
                response = self._stub.Predictions(request, timeout=seconds or self._seconds, metadata=metadata)
                return _checked(json.loads(response.prediction), name)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.PERMISSION_DENIED or refusals == MAX_REFUSALS - 1:
                    raise self._server_error(error) from None
        raise AssertionError("unreachable")

    def _metadata(self, refusals: int) -> list[tuple[str, str]]:
        token = self._tokens.token(INFERENCE, refusals)
        return [("protocol", "gRPC")] + ([("authorization", f"Bearer {token}")] if token else [])

    def _server_error(self, error: grpc.RpcError) -> ServerError:
        code, details = error.code(), " ".join((error.details() or "").split())
        not_found = any(name in details for name in NOT_FOUND)
        status = 404 if not_found else STATUSES.get(code, 503)
        return ServerError(f"{self._address} answered {code.name}: {details}", status, details)


def _checked(body: dict, name: str) -> dict:
    """The answer, unless it is the handler's error, which has a `code`.

    Raises:
        ServerError: with that code, as over HTTP.
    """
    if "code" not in body:
        return body
    message = f"{body['field']} {body['message']}" if body.get("field") else body["message"]
    raise ServerError(f"{name} answered {body['code']}: {message}", body["code"], body)
