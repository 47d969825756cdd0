"""What TorchServe is asked over gRPC: predictions, by its own inference API on a port of its own.

TorchServe 0.12 drops the status that a handler sets: over gRPC a request that the handler refuses comes back as an
answer like any other, so it is told here by its body.
"""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any

import grpc

from serving.settings import ServerSettings
from serving.torchserve.client import ServerError, TorchServe
from serving.torchserve.inference_pb2 import PredictionsRequest
from serving.torchserve.inference_pb2_grpc import InferenceAPIsServiceStub

INPUT = "data"  # where the handler looks for what a client sent
# What TorchServe says by gRPC, as the status that the same refusal has over HTTP; None where it said nothing.
STATUSES = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.PERMISSION_DENIED: 400,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: None,
    grpc.StatusCode.DEADLINE_EXCEEDED: None,
}
UNKNOWN = ("ModelNotFoundException", "ModelVersionNotFoundException")  # it says INTERNAL, and this in the text


class GrpcTorchServe:
    """A client of one TorchServe's gRPC port; safe to use from several threads.

    Args:
        address: host:port.
        tokens: holds the tokens, which both protocols share; closed with this client.
        seconds: the deadline of a request that states none.
    """

    def __init__(self, address: str, tokens: TorchServe, seconds: float = 15) -> None:
        self._address, self._tokens, self._seconds = address, tokens, seconds
        self._channel = grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)])  # loopback or the same cluster
        self._stub = InferenceAPIsServiceStub(self._channel)

    @classmethod
    def of(cls, settings: ServerSettings) -> GrpcTorchServe:
        """The client of this project's own server."""
        address = f"{settings.host}:{settings.grpc_inference_port}"
        return cls(address, TorchServe.of(settings), settings.answer_seconds + 5)

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
            payload: any JSON value, or bytes to be sent as they are.
            seconds: until the answer must be here; None takes the client's.

        Raises:
            ServerError: with a status as over HTTP.
        """
        content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        request = PredictionsRequest(model_name=name, model_version=version or "", input={INPUT: content})
        for refused in (0, 1, 2):
            try:
                metadata = self._metadata(refused)
                answer = self._stub.Predictions(request, timeout=seconds or self._seconds, metadata=metadata)
                return _checked(json.loads(answer.prediction), name)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.PERMISSION_DENIED or refused == 2:
                    raise self._fault(error) from None
        raise AssertionError("unreachable")

    def _metadata(self, refused: int) -> list[tuple[str, str]]:
        token = self._tokens.inference_token(refused)
        return [("protocol", "gRPC")] + ([("authorization", f"Bearer {token}")] if token else [])

    def _fault(self, error: grpc.RpcError) -> ServerError:
        code, words = error.code(), " ".join((error.details() or "").split())
        unknown = any(name in words for name in UNKNOWN)
        status = 404 if unknown else STATUSES.get(code, 503)
        return ServerError(f"{self._address} answered {code.name}: {words}", status, words)


def _checked(body: dict, name: str) -> dict:
    """An answer; what the handler says in its stead has a `code`.

    Raises:
        ServerError: with that code, as over HTTP.
    """
    if "code" not in body:
        return body
    said = f"{body['field']} {body['message']}" if body.get("field") else body["message"]
    raise ServerError(f"{name} answered {body['code']}: {said}", body["code"], body)
