"""A TorchServe of the dataset `tiny` that only knows its versions, in place of the client."""

from __future__ import annotations

from serving.settings import ServerSettings
from serving.torchserve.client import LoadedVersion, ServerError


class StubServer:
    """A server with two versions, and what was made the default; the second one is."""

    def __init__(self) -> None:
        self.default = "2.0"
        self.loaded = {"1.0", "2.0"}
        self.is_up = True

    def from_settings(self, _: ServerSettings) -> StubServer:
        return self

    def __enter__(self) -> StubServer:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def set_default(self, _: str, version: str) -> None:
        if not self.is_up:
            raise ServerError("TorchServe cannot be reached")
        self.default = version

    def describe(self, _: str) -> dict[str, LoadedVersion]:
        versions = self.loaded | {self.default}
        return {name: LoadedVersion(name, "", name == self.default, 1, 1, (), 8, 1) for name in versions}

    def predict(self, _: str, request: dict) -> dict:
        return {"model_version": self.default}
