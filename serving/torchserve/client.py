"""A client of TorchServe's HTTP APIs: manage models and predict."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from config.command import UserError
from serving.settings import ServerSettings

INFERENCE, MANAGEMENT = "inference", "management"
MAX_REFUSALS = 3  # of a token: as it is, read again, renewed
KEY_FILE_READS, KEY_FILE_PAUSE = 5, 0.05  # TorchServe rewrites the file in place, so a read may see half of it
LOADING_PAUSE = 0.1  # seconds between two looks at workers that load


class ServerError(UserError):
    """TorchServe refused, failed or could not be reached. `status` is None where it gave none.

    The text holds TorchServe's own message.
    """

    def __init__(self, message: str, status: int | None = None, body: Any = None) -> None:
        super().__init__(message)
        self.status, self.body = status, body


@dataclass(frozen=True)
class LoadedVersion:
    """One loaded version of a model."""

    version: str
    archive: str  # file name of its .mar
    default: bool
    ready: int  # workers that can answer
    workers: int
    pids: tuple[int, ...]
    batch_size: int
    batch_delay_ms: int


@dataclass
class TorchServe:
    """A client of one TorchServe.

    It reads its tokens from the key file, which the server writes at each start and each renewal. After a refusal it
    reads the file again, and only then renews the token with the API key, so that another client's renewal is not
    undone.

    """

    inference_url: str
    management_url: str
    key_file: Path | None  # the server's key_file.json; None where the server runs without authorization
    timeout: float = 15  # seconds to wait for an answer
    load_timeout: float = 130  # seconds to wait while a model loads or unloads

    def __post_init__(self) -> None:
        self._urls = {INFERENCE: self.inference_url, MANAGEMENT: self.management_url}
        self._tokens: dict[str, str] = {}
        # No proxy from the environment: the server is on loopback or in the same cluster.
        self._http = httpx.Client(timeout=self.timeout, trust_env=False)

    @classmethod
    def from_settings(cls, settings: ServerSettings) -> TorchServe:
        """A client of this project's own server."""
        urls = settings.inference_url, settings.management_url
        return cls(*urls, settings.key_file, settings.answer_seconds + 5, settings.load_seconds + 10)

    def __enter__(self) -> TorchServe:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ping(self) -> str:
        """The server's health: Healthy, Partial Healthy or Unhealthy."""
        return self._request(INFERENCE, "GET", "/ping")["status"]

    def predict(self, name: str, payload: Any, version: str | None = None) -> dict:
        """The answer to one request; `payload` is any JSON value, or bytes that are sent unchanged.

        Raises:
            ServerError: with the status and, in `body`, the server's answer (a 400 names the field).
        """
        content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        return self._request(INFERENCE, "POST", prediction_path(name, version), content=content)

    def models(self) -> dict[str, str]:
        """Name -> archive of the default version, for up to 100 loaded models."""
        page = self._request(MANAGEMENT, "GET", "/models", params={"limit": 100})
        return {model["modelName"]: model["modelUrl"] for model in page["models"]}

    def describe(self, name: str) -> dict[str, LoadedVersion]:
        """Version -> its state; empty where no version of the model is loaded."""
        try:
            versions = self._request(MANAGEMENT, "GET", f"/models/{name}/all")
            default = self._request(MANAGEMENT, "GET", f"/models/{name}")[0]["modelVersion"]
        except ServerError as error:
            if error.status == 404:
                return {}
            raise
        return {about["modelVersion"]: _loaded_version(about, default) for about in versions}

    def register(
        self,
        archive: str,
        name: str,
        workers: int = 1,
        batch_size: int = 1,
        batch_delay_ms: int = 0,
        answer_seconds: int = 10,
    ) -> None:
        """Load an archive of the model store, which holds its version, and wait for its workers.

        Raises:
            ServerError: 409 where that version is loaded already; 500 where its worker fails, and TorchServe tries again
                until the version is unregistered.
        """
        options = {
            "url": archive,
            "model_name": name,
            "initial_workers": workers,
            "batch_size": batch_size,
            "max_batch_delay": batch_delay_ms,
            "response_timeout": answer_seconds,
        }
        self._request(MANAGEMENT, "POST", "/models", params=options, timeout=self.load_timeout)
        (version,) = (live.version for live in self.describe(name).values() if live.archive == archive)
        self._wait_for_workers(name, version, workers)

    def scale(self, name: str, version: str, workers: int) -> None:
        """Start or stop workers of a version until it has this many, and wait for them. Raises ServerError: one fails."""
        options = {"min_worker": workers, "max_worker": workers}
        self._request(MANAGEMENT, "PUT", f"/models/{name}/{version}", params=options, timeout=self.load_timeout)
        self._wait_for_workers(name, version, workers)

    def set_default(self, name: str, version: str) -> None:
        """Let this version answer requests that name none."""
        self._request(MANAGEMENT, "PUT", f"/models/{name}/{version}/set-default")

    def unregister(self, name: str, version: str) -> None:
        """Unload a version. TorchServe refuses (403) to unload the default while others are loaded."""
        self._request(MANAGEMENT, "DELETE", f"/models/{name}/{version}", timeout=self.load_timeout)

    def _wait_for_workers(self, name: str, version: str, count: int) -> None:
        """Wait until a version has this many workers and all can answer.

        We ask again and again, because a call with `synchronous` blocks one of TorchServe's few network threads, and
        with it every connection for predictions that this thread serves.
        """
        deadline = time.monotonic() + self.load_timeout
        loaded: set[str] = set()
        loading: dict[str, int] = {}  # worker -> its process; another one means that the first failed
        while True:
            (about,) = self._request(MANAGEMENT, "GET", f"/models/{name}/{version}")
            workers = about.get("workers", [])
            loaded |= {worker["id"] for worker in workers if worker["status"] == "READY"}
            if len(workers) == count and all(worker["status"] == "READY" for worker in workers):
                return
            for worker in workers:
                process = worker["pid"]  # -1 before it started
                if worker["id"] not in loaded and process > 0 and loading.setdefault(worker["id"], process) != process:
                    raise ServerError(f"a worker of {name} {version} ended while it loaded the model", 500)
            if time.monotonic() > deadline:
                raise ServerError(f"{name} {version} has not {count} workers after {self.load_timeout:g} s", 500)
            time.sleep(LOADING_PAUSE)

    def token(self, kind: str, refusals: int = 0) -> str | None:
        """The token of an API, None without authorization. It is read again after one refusal and renewed after two."""
        if self.key_file is None:
            return None
        if refusals > 1:
            self.renew_token(kind)
        if refusals or kind not in self._tokens:
            self._tokens[kind] = _read_key_file(self.key_file)[kind]["key"]
        return self._tokens[kind]

    def renew_token(self, kind: str) -> None:
        """Have the server issue a new token, which makes the old one invalid for every client."""
        assert self.key_file is not None
        api_key = _read_key_file(self.key_file)["API"]["key"]
        _body(self._send(MANAGEMENT, "GET", "/token", api_key, params={"type": kind}))

    def _request(self, kind: str, method: str, path: str, **options: Any) -> Any:
        for refusals in range(MAX_REFUSALS):
            response = self._send(kind, method, path, self.token(kind, refusals), **options)
            if not token_refused(response.status_code, response.text):
                break
        return _body(response)

    def _send(self, kind: str, method: str, path: str, token: str | None, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        if "content" in options:  # only then: TorchServe would read the missing body of a register as JSON
            headers["Content-Type"] = "application/json"
        try:
            return self._http.request(method, self._urls[kind] + path, headers=headers, **options)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise ServerError(f"{self._urls[kind]} cannot be reached: {reason}") from None


def prediction_path(name: str, version: str | None = None) -> str:
    """The path of predictions by a loaded version, or by the default one."""
    return f"/predictions/{name}" + (f"/{version}" if version else "")


def token_refused(status: int, text: str) -> bool:
    """Whether an answer says that the token is invalid."""
    return status in (400, 401, 403) and "token" in text.lower()[:1000]


def _read_key_file(path: Path) -> dict:
    for _ in range(KEY_FILE_READS):
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ServerError(
                f"TorchServe is not running for this project ({path} does not exist); "
                "start it with `python -m serving.deploy`"
            ) from None
        except (OSError, ValueError):
            time.sleep(KEY_FILE_PAUSE)
    raise ServerError(f"{path} cannot be read")


def _loaded_version(about: dict, default: str) -> LoadedVersion:
    workers = about.get("workers", [])
    return LoadedVersion(
        version=about["modelVersion"],
        archive=about["modelUrl"],
        default=about["modelVersion"] == default,
        ready=sum(worker["status"] == "READY" for worker in workers),
        workers=len(workers),
        pids=tuple(worker["pid"] for worker in workers),
        batch_size=about["batchSize"],
        batch_delay_ms=about["maxBatchDelay"],
    )


def _body(response: httpx.Response) -> Any:
    """The value that a response holds. Raises ServerError: it is an error."""
    try:
        body = response.json()
    except ValueError:
        body = response.text
    if response.is_success:
        return body
    message = error_text(body) if isinstance(body, dict) else body
    text = " ".join(str(message or response.reason_phrase).split())
    request = f"{response.request.method} {response.request.url.path}"
    raise ServerError(f"{request} answered {response.status_code}: {text}", response.status_code, body)


def error_text(body: dict[str, Any]) -> str:
    """The message of an error, which our handler's errors begin with the wrong field."""
    return " ".join(str(body[part]) for part in ("field", "message") if body.get(part))
