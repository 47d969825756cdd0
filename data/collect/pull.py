"""Send a file or URL of users, items or events to the event collector. A killed pull goes on where it was.

Rows are JSON lines, CSV or Parquet. The write key is read from the environment variable TIDEGATE_WRITE_KEY.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args
from urllib.parse import urlsplit

import httpx
import msgspec
from filelock import FileLock, Timeout
from msgspec import Struct

from config.command import UserError, exits_cleanly
from config.files import make_folder, write_bytes
from config.redact import without_credentials
from data.collect import settings
from data.collect.messages import MAX_EVENT_BYTES
from data.collect.pull_source import (
    Download,
    Unavailable,
    check_status,
    describe,
    detect_format,
    is_url,
    open_rows,
    retrying,
)
from data.collect.rows import FORMATS, Format, Row, RowError, read_rows, to_event_message
from data.times import now_us

KEY = "TIDEGATE_WRITE_KEY"
FOLDER = "pulls"
Target = Literal["users", "items", "events"]
BATCH_ROWS, BATCH_BYTES = 500, 300_000
SHOWN = 10  # rejected rows that are printed
REPORT_SECONDS = 5.0
TIMEOUT_SECONDS = 60
MAX_NAME = 100
ENCODER = msgspec.json.Encoder(order="sorted")

Report = Callable[[str], None]


class Checkpoint(Struct):
    """How far a pull of one version of a source is."""

    validator: str  # names the version
    started_us: int  # the time of rows that have none
    rows: int = 0  # that were sent
    counts: dict[str, int] = {}  # verdict -> rows
    done: bool = False


class Line(NamedTuple):
    """A row as it is sent."""

    number: int  # in the source, from 1
    message_id: str
    content: bytes


class Collector:
    """Sends rows to the collector's API."""

    def __init__(self, url: str, key: str, target: Target, patience: float, report: Report) -> None:
        self._url, self._target, self._patience, self._report = f"{url.rstrip('/')}/v1/", target, patience, report
        self._client = httpx.Client(auth=(key, ""), timeout=TIMEOUT_SECONDS)

    def send(self, lines: Sequence[Line]) -> list[dict[str, Any]]:
        """The verdict on each row, none of which has to be sent again. Repeated rows are stored once.

        Raises:
            httpx.TransportError, Unavailable, UserError: the collector cannot be reached, is not ready, or refuses.
        """
        if self._target == "events":
            path, content = "batch", b'{"batch": [%s]}' % b",".join(line.content for line in lines)
        else:
            path, content = self._target, b"\n".join(line.content for line in lines)
        return retrying(self._patience, self._report)(self._post, path, content, lines)

    def _post(self, path: str, content: bytes, lines: Sequence[Line]) -> list[dict[str, Any]]:
        response = self._client.post(
            self._url + path, content=content, headers={"Content-Type": "application/x-ndjson"}
        )
        if response.status_code in (400, 401, 403):
            raise UserError(f"the collector refuses: {response.json()['field']}: {response.json()['message']}")
        check_status(response)
        results = response.json()["results"]
        if isinstance(results, dict):
            results = [results.get(line.message_id) or results[f"[{n}]"] for n, line in enumerate(lines)]
        return results


class Pull:
    """One source, of which a folder holds the state.

    Args:
        name: of the state, and part of the ids of rows.
        row_format: None: by the name of the source.
        patience: seconds to wait for the source in all.

    Raises:
        UserError: the name of the source does not tell its format.
    """

    def __init__(
        self, source: str, target: Target, name: str, folder: Path, row_format: Format | None, patience: float,
        report: Report,
    ) -> None:  # fmt: skip
        self._source, self._target, self._name, self._folder = source, target, name, folder
        self._format, self._is_gzip = detect_format(source, row_format)
        self._patience, self._report = patience, report
        self._file = folder / f"{name}.json"

    def run(self, collector: Collector) -> Checkpoint | None:
        """Send what was not sent yet; the state at the end. None: the source has not changed since it was sent.

        Raises:
            httpx.TransportError, Unavailable: the source or the collector cannot be reached.
            UserError: one of them refuses, the source cannot be read, or another process pulls it.
        """
        make_folder(self._folder)
        try:
            with FileLock(self._folder / f"{self._name}.lock", timeout=0):
                version = self._version()
                return version and self._send(*version, collector)
        except Timeout:
            raise UserError(f"another process pulls {self._name}") from None

    def _version(self) -> tuple[Path, Checkpoint] | None:
        """The file to send and how far it is sent; None if all of it is."""
        known = msgspec.json.decode(self._file.read_bytes(), type=Checkpoint) if self._file.exists() else None
        if is_url(self._source):
            path = self._folder / f"{self._name}.data"
            if known is not None and not known.done and path.exists():
                return path, known
            download = Download(self._source, self._folder, self._name)
            validator = retrying(self._patience, self._report)(download.fetch, known and known.validator, path)
            if validator is None:
                return None
        else:
            path = Path(self._source)
            try:
                validator = f"{path.stat().st_size} bytes of {path.stat().st_mtime_ns}"
            except OSError as error:
                raise UserError(f"{path}: {error.strerror}") from None
            if known is not None and known.validator == validator:
                return None if known.done else (path, known)
        checkpoint = Checkpoint(validator, now_us())
        self._save(checkpoint)
        return path, checkpoint

    def _send(self, path: Path, checkpoint: Checkpoint, collector: Collector) -> Checkpoint:
        counts, shown = Counter(checkpoint.counts), 0
        next_report = time.monotonic() + REPORT_SECONDS
        try:
            with open_rows(path, self._is_gzip) as file:
                rows = islice(enumerate(read_rows(file, self._format), 1), checkpoint.rows, None)
                lines = (_encode(row, number, self._name, self._target, checkpoint.started_us) for number, row in rows)
                for batch in _batches(lines):
                    verdicts = collector.send(batch)
                    for line, verdict in zip(batch, verdicts, strict=True):
                        counts[verdict["status"]] += 1
                        if verdict["status"] == "rejected" and shown < SHOWN:
                            shown += 1
                            field = verdict.get("field", "")
                            self._report(f"row {line.number}: {verdict['reason']}: {field} {verdict['message']}")
                    checkpoint.rows, checkpoint.counts = batch[-1].number, dict(counts)
                    self._save(checkpoint)
                    if time.monotonic() > next_report:
                        next_report = time.monotonic() + REPORT_SECONDS
                        self._report(summary(checkpoint))
        except (RowError, OSError, EOFError, zlib.error) as error:
            raise UserError(f"{without_credentials(self._source)}, after row {checkpoint.rows}: {error}") from None
        checkpoint.done = True
        self._save(checkpoint)
        if is_url(self._source):
            path.unlink()
        return checkpoint

    def _save(self, checkpoint: Checkpoint) -> None:
        write_bytes(self._file, msgspec.json.encode(checkpoint))


def summary(checkpoint: Checkpoint) -> str:
    """How many rows were sent, by verdict."""
    counts = ", ".join(f"{count:,} {status}" for status, count in sorted(checkpoint.counts.items()))
    return f"{checkpoint.rows:,} rows sent: {counts or 'none'}"


def default_name(source: str, target: Target) -> str:
    """A name for the state of a source: the file's name and a hash of where it is."""
    place = source if is_url(source) else str(Path(source).resolve())
    file = re.sub(r"[^\w.-]", "-", Path(urlsplit(source).path).name)[:MAX_NAME]
    return f"{file}-{blake2b(f'{target} {place}'.encode(), digest_size=4).hexdigest()}"


def _batches(lines: Iterable[Line]) -> Iterator[list[Line]]:
    batch: list[Line] = []
    size = 0
    for line in lines:
        if batch and (len(batch) == BATCH_ROWS or size + len(line.content) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += len(line.content) + 1
    if batch:
        yield batch


def _encode(row: Row, number: int, name: str, target: Target, started_us: int) -> Line:
    """A row with an id of its own, derived from the source, the place and the content.

    Users and items that have no time get that of the version, so that a value that returns in a later version counts.
    """
    message: dict[str, Any] | str | bytes = to_event_message(row) if target == "events" else row
    if isinstance(message, dict):
        id_field = "messageId" if target == "events" else "message_id"
        if target != "events":
            message = {"event_time": started_us, **message}
        message.setdefault(id_field, blake2b(ENCODER.encode([name, number, message]), digest_size=16).hexdigest())
        content = ENCODER.encode(message)
        if len(content) <= BATCH_BYTES:
            return Line(number, str(message[id_field]), content)
        message = content.decode()
    # No row, or far too long for one: rejected and kept. In a batch it has to be JSON.
    text = message[: 2 * MAX_EVENT_BYTES]
    return Line(
        number, "", ENCODER.encode(text) if target == "events" else text if isinstance(text, bytes) else text.encode()
    )


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m data.collect.pull", description=__doc__)
    parser.add_argument("source", help="a file, or an http(s) URL")
    parser.add_argument("--to", required=True, choices=get_args(Target), help="what the rows are")
    parser.add_argument("--format", choices=FORMATS, help="default: by the name of the source, which may end with .gz")
    parser.add_argument("--name", help="of the pull's state; default: the name of the file and a hash of its place")
    parser.add_argument("--collector", metavar="URL", help="default: the collector on this machine")
    parser.add_argument(
        "--patience", type=float, default=300, metavar="SECONDS", help="to wait for a server; default: %(default)s"
    )
    arguments = parser.parse_args(argv)
    collect = settings.load()
    key = os.environ.get(KEY)
    if not key:
        raise UserError(f"set {KEY} to a write key; make one with `python -m data.collect.write_keys make --profiles`")
    name = arguments.name or default_name(arguments.source, arguments.to)
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"--name is {name!r}; expected letters, digits, _, . and -")

    def report(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    url = arguments.collector or f"http://{collect.host}:{collect.port}"
    one = Pull(
        arguments.source, arguments.to, name, collect.home / FOLDER, arguments.format, arguments.patience, report
    )
    try:
        checkpoint = one.run(Collector(url, key, arguments.to, arguments.patience, report))
    except (httpx.TransportError, Unavailable) as error:
        raise UserError(f"{describe(error)}; run the command again to go on") from None
    print("the source has not changed since it was sent" if checkpoint is None else summary(checkpoint))
    return 0


if __name__ == "__main__":
    sys.exit(main())
