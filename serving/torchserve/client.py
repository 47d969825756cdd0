"""What TorchServe is asked over HTTP: managing models and predicting. Other files ask here for its paths."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from config.command import UserError
from serving.settings import ServerSettings

INFERENCE, MANAGEMENT = "inference", "management"
KEY_FILE_READS = 5


class ServerError(UserError):
    """TorchServe refused, failed or could not be reached. `status` is None where it said nothing.

    The text carries the server's own words.
    """

    def __init__(self, message: str, status: int | None = None, body: Any = None) -> None:
        super().__init__(message)
        self.status, self.body = status, body


@dataclass(frozen=True)
class LiveVersion:
    """One loaded version of a model."""

    version: str
    archive: str  # file name of its .mar
    default: bool
    ready: int  # workers that can answer
    workers: int
    pids: tuple[int, ...]
    batch_size: int
    batch_delay_ms: int


class TorchServe:
    """A client of one TorchServe.

    Its tokens are read from the key file. The server writes that file at each start and at each renewal, so a
    refused token is first read again, then renewed under the API key: whoever else renewed it is not undone.

    Args:
        inference_url, management_url: without a trailing slash.
        key_file: the server's key_file.json; None where the server runs without authorization.
        timeout: seconds to wait for an answer; loading a model has its own.
    """

    def __init__(
        self,
        inference_url: str,
        management_url: str,
        key_file: Path | None,
        timeout: float = 15,
        load_timeout: float = 130,
    ) -> None:
        self._base = {INFERENCE: inference_url, MANAGEMENT: management_url}
        self._key_file, self._load_timeout = key_file, load_timeout
        self._tokens: dict[str, str] = {}
        # No proxy from the environment: the server is on loopback or in the same cluster.
        self._http = httpx.Client(timeout=timeout, trust_env=False)

    @classmethod
    def of(cls, settings: ServerSettings) -> TorchServe:
        """The client of this project's own server."""
        return cls(
            settings.inference_url,
            settings.management_url,
            settings.key_file,
            timeout=settings.answer_seconds + 5,
            load_timeout=settings.load_seconds + 10,
        )

    def __enter__(self) -> TorchServe:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def ping(self) -> str:
        """The server's health in its own word: Healthy, Partial Healthy or Unhealthy."""
        return self._ask(INFERENCE, "GET", "/ping")["status"]

    def predict(self, name: str, payload: Any, version: str | None = None) -> dict:
        """The answer to one request; `payload` is any JSON value, or bytes to be sent as they are.

        Raises:
            ServerError: with the status and, in `body`, what came back (a 400 names the field).
        """
        path = prediction_path(name, version)
        content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        return self._ask(INFERENCE, "POST", path, content=content)

    def models(self) -> dict[str, str]:
        """Name -> archive of the default version of every loaded model."""
        found: dict[str, str] = {}
        token: str | None = "0"
        while token is not None:
            page = self._ask(MANAGEMENT, "GET", "/models", params={"limit": 100, "next_page_token": token})
            found |= {model["modelName"]: model["modelUrl"] for model in page["models"]}
            token = page.get("nextPageToken")
        return found

    def describe(self, name: str) -> dict[str, LiveVersion]:
        """Version -> what runs of it; empty where no version of the model is loaded."""
        try:
            stated = self._ask(MANAGEMENT, "GET", f"/models/{name}/all")
            default = self._ask(MANAGEMENT, "GET", f"/models/{name}")[0]["modelVersion"]
        except ServerError as error:
            if error.status == 404:
                return {}
            raise
        return {about["modelVersion"]: _live(about, default) for about in stated}

    def register(
        self,
        archive: str,
        name: str,
        workers: int = 1,
        batch_size: int = 1,
        batch_delay_ms: int = 0,
        answer_seconds: int = 10,
    ) -> None:
        """Load an archive of the model store and wait for its workers; the archive states its version.

        Raises:
            ServerError: 409 where that version is loaded already; 500 where its worker fails.
        """
        wanted = {
            "url": archive,
            "model_name": name,
            "initial_workers": workers,
            "synchronous": "true",
            "batch_size": batch_size,
            "max_batch_delay": batch_delay_ms,
            "response_timeout": answer_seconds,
        }
        self._ask(MANAGEMENT, "POST", "/models", params=wanted, timeout=self._load_timeout)

    def scale(self, name: str, version: str, workers: int) -> None:
        """Bring a version to this many workers, and wait for them."""
        wanted = {"min_worker": workers, "max_worker": workers, "synchronous": "true"}
        self._ask(MANAGEMENT, "PUT", f"/models/{name}/{version}", params=wanted, timeout=self._load_timeout)

    def set_default(self, name: str, version: str) -> None:
        """Let this version answer requests that name none."""
        self._ask(MANAGEMENT, "PUT", f"/models/{name}/{version}/set-default")

    def unregister(self, name: str, version: str) -> None:
        """Unload a version. The default cannot go while others are loaded (403)."""
        self._ask(MANAGEMENT, "DELETE", f"/models/{name}/{version}", timeout=self._load_timeout)

    def inference_token(self, refused: int = 0) -> str | None:
        """The token for another protocol; one that was `refused` once is read again, then renewed. None without any."""
        if refused:
            self._tokens.pop(INFERENCE, None)
        if refused > 1 and self._key_file is not None:
            self._renew(INFERENCE)
        return self._token(INFERENCE)

    def _ask(self, kind: str, method: str, path: str, **options: Any) -> Any:
        answer = self._send(kind, method, path, self._token(kind), **options)
        if token_refused(answer.status_code, answer.text):
            self._tokens.pop(kind, None)
            token = self._token(kind)
            answer = self._send(kind, method, path, token, **options)
            if token_refused(answer.status_code, answer.text) and token is not None:
                self._renew(kind)
                answer = self._send(kind, method, path, self._token(kind), **options)
        return _content(answer, method, path)

    def _send(self, kind: str, method: str, path: str, token: str | None, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if "content" in options:  # only then: TorchServe would read the absent body of a register as JSON
            headers["Content-Type"] = "application/json"
        try:
            return self._http.request(method, self._base[kind] + path, headers=headers, **options)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise ServerError(f"{self._base[kind]} cannot be reached: {reason}") from None

    def _token(self, kind: str) -> str | None:
        if self._key_file is None:
            return None
        if kind not in self._tokens:
            self._tokens[kind] = self._keys()[kind]["key"]
        return self._tokens[kind]

    def _renew(self, kind: str) -> None:
        api_key = self._keys()["API"]["key"]
        answer = self._send(MANAGEMENT, "GET", "/token", api_key, params={"type": kind})
        _content(answer, "GET", "/token")
        self._tokens.pop(kind, None)

    def _keys(self) -> dict:
        for attempt in range(KEY_FILE_READS):
            try:
                return json.loads(self._key_file.read_text())  # type: ignore[union-attr]
            except FileNotFoundError:
                raise ServerError(
                    f"no TorchServe runs for this project ({self._key_file} is not there); "
                    "start it with `python -m serving.deploy`"
                ) from None
            except (OSError, ValueError) as error:
                if attempt == KEY_FILE_READS - 1:
                    raise ServerError(f"{self._key_file} cannot be read: {error}") from None
                time.sleep(0.05)  # the server is writing it: it does so in place
        raise AssertionError("unreachable")


def prediction_path(name: str, version: str | None = None) -> str:
    """Where a loaded version, or the default one, is asked."""
    return f"/predictions/{name}" + (f"/{version}" if version else "")


def token_refused(status: int, text: str) -> bool:
    """Whether an answer says that the token does not hold."""
    return status in (400, 401, 403) and "token" in text.lower()[:1000]


def _live(about: dict, default: str) -> LiveVersion:
    workers = about.get("workers", [])
    return LiveVersion(
        version=about["modelVersion"],
        archive=about["modelUrl"],
        default=about["modelVersion"] == default,
        ready=sum(worker["status"] == "READY" for worker in workers),
        workers=len(workers),
        pids=tuple(worker["pid"] for worker in workers),
        batch_size=about["batchSize"],
        batch_delay_ms=about["maxBatchDelay"],
    )


def _content(answer: httpx.Response, method: str, path: str) -> Any:
    try:
        body = answer.json()
    except ValueError:
        body = answer.text
    if answer.is_success:
        return body
    said = body.get("message") if isinstance(body, dict) else body
    if isinstance(body, dict) and body.get("field"):
        said = f"{body['field']} {said}"
    words = " ".join(str(said or answer.reason_phrase).split())
    raise ServerError(f"{method} {path} answered {answer.status_code}: {words}", answer.status_code, body)
