"""A client of TorchServe's gRPC inference API.

TorchServe 0.12 drops the status that a handler sets. Over gRPC, a request that the handler refuses comes back like any
other answer, so its body decides here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import grpc

from serving.settings import ServerSettings
from serving.torchserve.client import INFERENCE, MAX_REFUSALS, ServerError, TorchServe, error_text
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


@dataclass
class GrpcTorchServe:
    """A client of one TorchServe's gRPC port; safe to use from several threads."""

    address: str  # host:port
    tokens: TorchServe  # the HTTP client, which holds the tokens of both protocols; closed with this client
    seconds: float = 15  # deadline of a request

    def __post_init__(self) -> None:
        # No proxy: the server is on loopback or in the same cluster.
        self._channel = grpc.insecure_channel(self.address, [("grpc.enable_http_proxy", 0)])
        self._stub = InferenceAPIsServiceStub(self._channel)

    @classmethod
    def from_settings(cls, settings: ServerSettings) -> GrpcTorchServe:
        """A client of this project's own server."""
        address = f"{settings.host}:{settings.grpc_inference_port}"
        return cls(address, TorchServe.from_settings(settings), settings.answer_seconds + 5)

    def __enter__(self) -> GrpcTorchServe:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        self.tokens.__exit__()

    def predict(self, name: str, payload: Any, version: str | None = None) -> dict:
        """See `TorchServe.predict`. Raises ServerError: with the status that the refusal has over HTTP."""
        content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        request = PredictionsRequest(model_name=name, model_version=version or "", input={INPUT: content})
        for refusals in range(MAX_REFUSALS):
            try:
                token = self.tokens.token(INFERENCE, refusals)
                metadata = [("protocol", "gRPC"), *([("authorization", f"Bearer {token}")] if token else [])]
                response = self._stub.Predictions(request, timeout=self.seconds, metadata=metadata)
                break
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.PERMISSION_DENIED or refusals == MAX_REFUSALS - 1:
                    raise self._server_error(error) from None
        body = json.loads(response.prediction)
        if "code" in body:  # the handler's error
            raise ServerError(f"{name} answered {body['code']}: {error_text(body)}", body["code"], body)
        return body

    def _server_error(self, error: grpc.RpcError) -> ServerError:
        code, details = error.code(), " ".join((error.details() or "").split())
        not_found = any(name in details for name in NOT_FOUND)
        status = 404 if not_found else STATUSES.get(code, 503)
        return ServerError(f"{self.address} answered {code.name}: {details}", status, details)
