"""A public data set arrives whole and checked, or not at all. The server is a local one."""

from __future__ import annotations

import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data import download as module
from data.download import DATASETS, download, main
from data.files import DataError
from data.readers.sources import detect_format

pytestmark = pytest.mark.slow  # each test takes little, all of them many seconds

ROOT = Path(__file__).resolve().parent.parent.parent
FILES = {"ml-100k/u.data": "196\t242\t3\t881250949\n", "ml-100k/u.user": "196|49|M|writer|05201\n"}
Serve = Callable[..., str]


def archive(files: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as out:
        for name, text in files.items():
            out.writestr(name, text)
    return packed.getvalue()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start a server of an archive; keywords break it. Returns its URL."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running: list[ThreadingHTTPServer] = []

    def start(
        body: bytes, checksum: str | None = None, shape: str = "{}  ml-100k.zip\n", sent: int | None = None,
        stall: threading.Event | None = None,
    ) -> str:  # fmt: skip
        digits = checksum or hashlib.md5(body).hexdigest()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                bodies = {"/ml-100k.zip": body, "/ml-100k.zip.md5": shape.format(digits).encode()}
                if self.path not in bodies:
                    return self.send_error(404)
                whole = bodies[self.path]
                self.send_response(200)
                self.send_header("Content-Length", str(len(whole)))
                self.end_headers()
                part = whole if self.path.endswith(".md5") else whole[:sent]
                self.wfile.write(part)
                self.wfile.flush()
                if stall is not None and part != whole:
                    stall.wait(30)
                return None

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        running.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("shape", ["{}  ml-100k.zip\n", "MD5 (ml-100k.zip) = {}\n", "{}"])
def test_a_data_set_arrives_as_a_folder_that_ingest_knows(tmp_path: Path, serve: Serve, shape: str) -> None:
    folder = download("ml-100k", tmp_path, serve(archive(FILES), shape=shape))

    assert folder == tmp_path / "ml-100k"
    assert {str(path.relative_to(tmp_path)): path.read_text(encoding="utf-8") for path in folder.iterdir()} == FILES
    assert detect_format(folder) == "movielens-100k"
    assert [path.name for path in tmp_path.iterdir()] == ["ml-100k"]


def test_one_that_is_there_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ml-100k").mkdir()

    assert main(["ml-100k", "--to", str(tmp_path), "--base-url", "http://127.0.0.1:9"]) == 0
    assert "existed already; remove it to download it again" in capsys.readouterr().out


def test_the_command_prints_the_terms_and_the_next_step(
    tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ml-100k", "--to", str(tmp_path), "--base-url", serve(archive(FILES))]) == 0

    printed = capsys.readouterr().out
    assert DATASETS["ml-100k"].terms in printed
    assert f"make demo SOURCE={tmp_path / 'ml-100k'}" in printed
    with pytest.raises(SystemExit):
        main(["--help"])
    assert DATASETS["ml-100k"].terms in capsys.readouterr().out


BROKEN: dict[str, tuple[dict, str]] = {
    "another checksum": ({"checksum": "0" * 32}, r"the MD5 is [0-9a-f]{32}, the published one is 0{32}; try again"),
    "no checksum": ({"shape": "<html>"}, r"ml-100k\.zip\.md5 holds no MD5 checksum"),
    "a truncated body": ({"sent": 100}, r"ml-100k\.zip: peer closed connection .*; try again"),
    "no archive": ({"body": b"<html>"}, r"ml-100k\.zip cannot be unpacked: File is not a zip file"),
    "another folder": ({"body": archive({"ml-1m/ratings.dat": "1"})}, r"ml-100k\.zip holds no folder ml-100k"),
}


@pytest.mark.parametrize(("changes", "message"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_named_and_leaves_nothing(tmp_path: Path, serve: Serve, changes: dict, message: str) -> None:
    to = tmp_path / "to"
    url = serve(**{"body": archive(FILES), **changes})

    with pytest.raises(DataError, match=message) as error:
        download("ml-100k", to, url)
    assert "\n" not in str(error.value)
    assert not list(to.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["to"]


@pytest.mark.parametrize("member", ["ml-100k/../../../evil", "/tmp/evil", "../evil", "ml-100k\\..\\evil"])
def test_no_member_of_an_archive_leaves_the_folder(tmp_path: Path, serve: Serve, member: str) -> None:
    download("ml-100k", tmp_path / "to", serve(archive({**FILES, member: "x"})))

    assert [path.name for path in tmp_path.iterdir()] == ["to"]
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["ml-100k"]
    assert not Path("/tmp/evil").exists()


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path: Path, serve: Serve, monkeypatch) -> None:
    monkeypatch.setattr(module, "MAX_UNPACKED_BYTES", 40)

    with pytest.raises(DataError, match=r"ml-100k\.zip: unpacks to more than"):
        download("ml-100k", tmp_path, serve(archive(FILES)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "url", "message"),
    [
        ("ml-1m", None, r"/ml-1m\.zip\.md5: the server responded with status 404"),
        ("ml-1m", "http://127.0.0.1:9", r"ml-1m\.zip: .*refused.*; try again"),
        ("ml-1m", "ftp://127.0.0.1", r"ml-1m\.zip: .*protocol"),
    ],
)
def test_a_server_without_the_file_or_a_response_is_named(
    tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str], name: str, url: str | None, message: str
) -> None:
    assert main([name, "--to", str(tmp_path), "--base-url", url or serve(archive(FILES))]) == 2

    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert re.search(message, error), error
    assert not list(tmp_path.iterdir())


def heeding_interrupts() -> None:
    """What a shell runs in the background ignores SIGINT, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_one_killed_midway_leaves_nothing_half_and_the_next_begins_anew(
    tmp_path: Path, serve: Serve, how: signal.Signals
) -> None:
    release = threading.Event()
    url = serve(archive(FILES), sent=60, stall=release)
    command = [sys.executable, "-m", "data.download", "ml-100k", "--to", str(tmp_path), "--base-url", url]
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"NO_PROXY": "127.0.0.1"}, stderr=subprocess.PIPE,
        preexec_fn=heeding_interrupts,
    )  # fmt: skip
    part = tmp_path / ".ml-100k.partial" / ".ml-100k.zip"
    deadline = time.monotonic() + 60
    while not part.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert part.exists()
    process.send_signal(how)
    process.wait(30)
    release.set()

    assert not (tmp_path / "ml-100k").exists()
    assert not list(tmp_path.iterdir()) or how != signal.SIGINT
    download("ml-100k", tmp_path, serve(archive(FILES)))
    assert [path.name for path in tmp_path.iterdir()] == ["ml-100k"]
