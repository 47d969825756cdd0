"""The source of a pull: a file, or a URL that is downloaded whole first. An interrupted download goes on where it was."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

from config.command import UserError
from config.files import make_folder, sync
from config.redact import without_credentials
from data.collect.rows import Format

TIMEOUT_SECONDS = 30
BACKOFF = wait_random_exponential(multiplier=0.5, max=60)  # with jitter
WEAK = "W/"  # begins an ETag that does not promise the same bytes
RETRIED = {408, 425, 429, 500, 502, 503, 504}
SUFFIXES: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


class Unavailable(Exception):
    """A server cannot answer now; `retry_after` is the number of seconds that it asks for."""

    def __init__(self, message: str, retry_after: float = 0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def retrying(patience: float, report: Callable[[str], None]) -> Retrying:
    """Repeat what meets a network error or `Unavailable`, until it has waited `patience` seconds; then raise the error."""

    def wait(state: RetryCallState) -> float:
        return max(BACKOFF(state), getattr(_error(state), "retry_after", 0))

    return Retrying(
        retry=retry_if_exception_type((httpx.TransportError, Unavailable)),
        wait=wait,
        stop=lambda state: state.idle_for + state.upcoming_sleep > patience,
        before_sleep=lambda state: report(f"{describe(_error(state))}; next try in {state.upcoming_sleep:.1f} s"),
        reraise=True,
    )


def check_status(response: httpx.Response) -> None:
    """Raises Unavailable where the request may be repeated, UserError where that is no use."""
    if response.is_success:
        return
    text = f"{without_credentials(str(response.url))} responded with status {response.status_code}"
    if response.status_code in RETRIED:
        after = response.headers.get("retry-after", "")
        raise Unavailable(text, float(after) if after.isdigit() else 0)
    raise UserError(text)


def describe(error: BaseException | None) -> str:
    """An error in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _error(state: RetryCallState) -> BaseException | None:
    return None if state.outcome is None else state.outcome.exception()


def is_url(source: str) -> bool:
    return urlsplit(source).scheme in ("http", "https")


def detect_format(source: str, known: Format | None = None) -> tuple[Format, bool]:
    """The format of a source, by its name unless it is known, and whether it is compressed with gzip. Raises UserError."""
    path = Path(urlsplit(source).path if is_url(source) else source)
    is_gzip = path.suffix == ".gz"
    found = known or SUFFIXES.get(path.with_suffix("").suffix if is_gzip else path.suffix)
    if found is None:
        raise UserError(f"{path.name}: expected a name that ends with {', '.join(SUFFIXES)}, or --format")
    return found, is_gzip


@contextmanager
def open_rows(path: Path, is_gzip: bool) -> Iterator[BinaryIO]:
    """The content of a file, unpacked."""
    with gzip.open(path) if is_gzip else path.open("rb") as file:
        yield file  # type: ignore[misc]


class Download:
    """A URL's content in a folder: `NAME.part` while it arrives, `NAME.part.validator` what names its version."""

    def __init__(self, url: str, folder: Path, name: str) -> None:
        self._url = url
        self._part, self._validator = folder / f"{name}.part", folder / f"{name}.part.validator"
        make_folder(folder)

    def fetch(self, known: str | None, to: Path) -> str | None:
        """One try. Returns the validator of the version now in the file `to`, "" if it has none; None: `known` is current.

        Raises:
            httpx.TransportError, Unavailable: to be tried again; what has arrived is kept.
            UserError: the server refuses.
        """
        headers = {"Accept-Encoding": "identity"}
        have = self._part.stat().st_size if self._part.exists() else 0
        validator = self._validator.read_text(encoding="utf-8") if self._validator.exists() else ""
        if have and validator and not validator.startswith(WEAK):
            headers |= {"Range": f"bytes={have}-", "If-Range": validator}
        elif known:
            headers["If-None-Match" if known.startswith(('"', WEAK)) else "If-Modified-Since"] = known
        with (
            httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=True) as client,
            client.stream("GET", self._url, headers=headers) as response,
        ):
            if response.status_code == 304:
                return None
            if response.status_code == 416:  # it had all of it, or has another version
                self._part.unlink()
                raise Unavailable("the download begins again")
            check_status(response)
            goes_on = response.status_code == 206
            if goes_on and not response.headers.get("content-range", "").startswith(f"bytes {have}-"):
                self._part.unlink()
                raise Unavailable("the server sent another part than was asked for; the download begins again")
            if not goes_on:
                self._part.unlink(missing_ok=True)
                validator = response.headers.get("etag") or response.headers.get("last-modified") or ""
                self._validator.write_text(validator, encoding="utf-8")
            with self._part.open("ab") as file:
                for chunk in response.iter_raw():
                    file.write(chunk)
        sync(self._part)
        self._part.replace(to)
        self._validator.unlink()
        return validator
