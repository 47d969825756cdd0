"""A backup is whole or not there, a restored state serves as before, and neither a kill nor a full disk loses anything."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from collected_events import CollectedEvents, play

from data.collect.event_log import Position
from data.collect.partitions import events_at
from serving import backup
from serving.backup import BackupError, check, restore, save

REPORT = {"verdict": "PROMOTE", "reason": "a test"}


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small state: a database with uncheckpointed changes, a key, two logs, a lock, and what a killed writer left."""
    monkeypatch.setenv("TIDEGATE_STATE", str(tmp_path / "state"))
    folder = tmp_path / "state"
    for name in ("keys", "deployments", "edge/served", "edge/requests"):
        (folder / name).mkdir(parents=True)
    (folder / "edge/requests").chmod(0o700)
    for name, text in {
        "keys/gate.pem": "k" * 64 + "\n",
        "deployments/demo.json": '{"version": "1.0"}',
        "edge/served/served-2026-01-01-7.jsonl": '{"request_id":"a"}\n' * 1000,
        "keys/keys.lock": "",
        "keys/.gate.pem.12.partial": "half",
    }.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "keys/gate.pem").chmod(0o600)
    database = sqlite3.connect(folder / "online.db", isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("CREATE TABLE records (key INTEGER)")
    database.execute("INSERT INTO records VALUES (1), (2)")
    yield folder  # a closed database would have no write-ahead log
    database.close()


@pytest.fixture
def archive(state: Path, tmp_path: Path) -> Path:
    """A backup of that state."""
    save(state, tmp_path / "backups" / "one.tar.gz")
    return tmp_path / "backups" / "one.tar.gz"


def contents(folder: Path) -> dict[str, object]:
    """The content of every file but the databases, and the rows of those."""
    found: dict[str, object] = {}
    for path in folder.rglob("*"):
        if path.suffix == ".db":
            with closing(sqlite3.connect(path)) as database:
                found[path.name] = database.execute("SELECT * FROM records ORDER BY key").fetchall()
        elif path.is_file() and not path.name.endswith(("-wal", "-shm", ".lock", ".partial")):
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def killed(action: Callable[[], object]) -> int:
    """Run an action in a process of its own; the signal that ended it, or its exit status."""
    child = os.fork()
    if not child:
        try:
            action()
        except BackupError:
            os._exit(2)
        except BaseException:
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def die_at(number: int, owner: object, *names: str) -> None:
    """Let this process be killed at the nth call of these functions."""
    calls = [0]

    def wrap(original: Callable) -> Callable:
        def counted(*arguments: object, **named: object) -> object:
            calls[0] += 1
            if calls[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **named)

        return counted

    for name in names:
        setattr(owner, name, wrap(getattr(owner, name)))


def names(folder: Path) -> set[str]:
    """What lies in a folder, but for the lock that every run leaves."""
    return {path.name for path in folder.iterdir() if path.suffix != ".lock"} if folder.exists() else set()


def test_a_lost_state_is_as_before_after_a_restore(state: Path, archive: Path) -> None:
    before = contents(state)
    modes = {path.relative_to(state): path.stat().st_mode for path in state.rglob("*") if path.name in before}
    shutil.rmtree(state)
    about, aside = restore(archive, state)
    assert contents(state) == before
    assert before["online.db"] == [(1,), (2,)]
    assert {path: (state / path).stat().st_mode for path in modes} == modes
    assert (state / "edge/requests").stat().st_mode & 0o777 == 0o700
    assert aside is None
    assert not list(state.rglob("*.lock")) + list(state.rglob("*.partial")) + list(state.rglob("*-wal"))
    assert about["state"] == str(state)


def test_an_archive_is_its_owners_alone_and_lists_a_digest_of_each_file(archive: Path, tmp_path: Path) -> None:
    assert archive.stat().st_mode & 0o777 == 0o600
    assert names(archive.parent) == {"one.tar.gz"}
    (tmp_path / "unpacked").mkdir()
    subprocess.run(["tar", "xzf", archive, "-C", tmp_path / "unpacked"], check=True)
    checked = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "unpacked", capture_output=True, encoding="utf-8"
    )
    assert checked.returncode == 0
    assert set(checked.stdout.splitlines()) == {f"{name}: OK" for name in check(archive)[1]}


def test_a_restore_refuses_a_state_that_is_not_empty_and_keeps_it_aside_if_told_to(state: Path, archive: Path) -> None:
    (state / "keys/gate.pem").write_text("another", encoding="utf-8")
    before = contents(state)
    with pytest.raises(BackupError, match=rf"{state} is not empty; REPLACE=1 \(--replace\) keeps it aside"):
        restore(archive, state)
    assert contents(state) == before
    _, aside = restore(archive, state, replace=True)
    assert aside is not None
    assert (state / "keys/gate.pem").read_text(encoding="utf-8") == "k" * 64 + "\n"
    assert contents(aside) == before


def test_what_is_written_during_a_backup_is_in_it_whole_or_not_at_all(state: Path, tmp_path: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        number = 10
        with closing(sqlite3.connect(state / "online.db", isolation_level=None)) as database:
            while not stop.is_set():
                number += 1
                database.execute("INSERT INTO records VALUES (?)", (number,))
                backup.files.write_bytes(state / "deployments/demo.json", json.dumps({"version": number}).encode())
                line = b'{"request_id":"%d"}\n' % number
                backup.files.append_lines(state / "edge/served/served-2026-01-01-7.jsonl", line, durable=False)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(5):
            save(state, tmp_path / f"{number}.tar.gz")
    finally:
        stop.set()
        writer.join()
    for number in range(5):
        restore(tmp_path / f"{number}.tar.gz", tmp_path / f"restored-{number}")
        restored = tmp_path / f"restored-{number}"
        json.loads((restored / "deployments/demo.json").read_bytes())
        lines = (restored / "edge/served/served-2026-01-01-7.jsonl").read_bytes()
        assert lines.endswith(b"}\n")
        assert len(contents(restored)["online.db"]) >= 2  # type: ignore[arg-type]


def test_partitions_never_reach_beyond_the_event_log_that_is_saved_with_them(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collected = CollectedEvents(state / "collect")
    collected.add(1, play("a"))
    collected.write(24)
    copy_database = backup._copy_database

    def copy_while_events_come(path: Path, scratch: Path) -> Path:
        copied = copy_database(path, scratch)
        if path.parent == collected.log:
            collected.add(30, play("b"))
            collected.write(48)
        return copied

    monkeypatch.setattr(backup, "_copy_database", copy_while_events_come)
    save(state, tmp_path / "racing.tar.gz")
    restore(tmp_path / "racing.tar.gz", tmp_path / "restored")
    restored = CollectedEvents(tmp_path / "restored" / "collect")
    restored.add(50, play("c"))

    assert [part.known_date for part in restored.write(72)] == ["2024-10-06"]
    assert [events_at(restored.partitions, Position(0, offset)) for offset in (1, 2)] == [["a"], ["c"]]


def test_a_backup_that_is_killed_leaves_no_archive_and_the_next_one_removes_its_leftovers(
    state: Path, tmp_path: Path
) -> None:
    target, before = tmp_path / "backups" / "one.tar.gz", contents(state)
    for number in (1, 4, 9):

        def run(number: int = number) -> None:
            die_at(number, tarfile.TarFile, "addfile")
            save(state, target)

        assert killed(run) == -signal.SIGKILL
        assert not target.exists()
    for action in ("check", "files.sync"):

        def run_to_the_end(action: str = action) -> None:
            die_at(1, backup.files if "." in action else backup, action.rpartition(".")[2])
            save(state, target)

        assert killed(run_to_the_end) == -signal.SIGKILL
        assert not target.exists()
    assert names(target.parent) == {".tidegate-backup"}
    save(state, target)
    assert names(target.parent) == {"one.tar.gz"}
    assert contents(state) == before


def test_a_restore_that_is_killed_is_done_or_can_be_run_again(state: Path, archive: Path, tmp_path: Path) -> None:
    before = contents(state)
    (state / "keys/gate.pem").write_text("of the former state", encoding="utf-8")
    former = contents(state)
    ends = set()
    for step in range(1, 5):

        def run(step: int = step) -> None:
            die_at(step, Path, "rename")
            die_at(step, backup.files, "sync_tree")
            restore(archive, state, replace=True)

        if killed(run) == 0:
            break
        kept = [path for path in tmp_path.glob("state.before-*") if contents(path) == former]
        ends.add((state.exists() and contents(state) == former, bool(kept)))
        if not state.exists():
            assert kept, "neither the former state nor the new one is there"
            kept[0].rename(state)
    assert ends == {(True, False), (False, True)}  # not begun, and between the two renames
    shutil.rmtree(state)
    restore(archive, state)
    assert contents(state) == before
    assert ".tidegate-restore" not in names(tmp_path)


@pytest.mark.parametrize("bytes_", [0, 300, 2000])
def test_a_full_disk_leaves_no_archive_and_no_half_state(
    state: Path, archive: Path, tmp_path: Path, bytes_: int
) -> None:
    before = contents(state)

    def in_little_room(action: Callable[[], object]) -> int:
        def run() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))
            action()

        return killed(run)

    assert in_little_room(lambda: save(state, tmp_path / "full" / "two.tar.gz")) == 2
    assert not names(tmp_path / "full")
    assert in_little_room(lambda: restore(archive, tmp_path / "new")) == 2
    assert not (tmp_path / "new").exists()
    assert in_little_room(lambda: restore(archive, state, replace=True)) == 2
    assert contents(state) == before
    assert not [name for name in names(tmp_path) if name.startswith((".tidegate", "state.before"))]
    shutil.rmtree(state)


def test_a_damaged_database_is_not_saved_as_if_it_were_whole(state: Path, tmp_path: Path) -> None:
    (state / "mlflow.db").write_bytes(b"SQLite format 3\0" + b"\1" * 5000)
    with pytest.raises(BackupError, match=rf"no backup was made: {state}/mlflow.db cannot be copied"):
        save(state, tmp_path / "one.tar.gz")
    assert not (tmp_path / "one.tar.gz").exists()


def test_there_must_be_something_to_save_and_the_archive_may_not_lie_in_it(state: Path, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="holds nothing to save"):
        save(tmp_path / "nothing", tmp_path / "one.tar.gz")
    with pytest.raises(BackupError, match=r"lies in .*; choose another place"):
        save(state, state / "one.tar.gz")


def rewritten(archive: Path, target: Path, change: Callable[[tarfile.TarInfo, bytes], Iterator[tuple]]) -> Path:
    """A copy of an archive whose entries a function changes."""
    with tarfile.open(archive) as old, tarfile.open(target, "w:gz") as new:
        for entry in old:
            content = b"" if entry.isdir() else old.extractfile(entry).read()  # type: ignore[union-attr]
            for changed, text in change(entry, content):
                changed.size = len(text)
                new.addfile(changed, io.BytesIO(text))
    return target


def added(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Callable:
    """A change that adds one entry before the digests."""

    def change(entry: tarfile.TarInfo, content: bytes) -> Iterator[tuple]:
        if entry.name == "SHA256SUMS":
            more = tarfile.TarInfo(name)
            more.type, more.linkname = kind, link
            yield more, b""
        yield entry, content

    return change


def about(**changes: object) -> Callable:
    """A change of what the archive says of itself."""

    def change(entry: tarfile.TarInfo, content: bytes) -> Iterator[tuple]:
        is_about = entry.name == "backup.json"
        yield entry, json.dumps(json.loads(content) | changes).encode() if is_about else content

    return change


def of(name: str, content: bytes | None) -> Callable:
    """A change of one file; None leaves it out."""

    def change(entry: tarfile.TarInfo, old: bytes) -> Iterator[tuple]:
        if entry.name != name:
            yield entry, old
        elif content is not None:
            yield entry, content

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (added("../evil"), r"is no backup of Tidegate: it holds \.\./evil"),
        (added("state/../../evil"), r"it holds state/\.\./\.\./evil"),
        (added("/tmp/evil"), "it holds /tmp/evil"),
        (added("state"), "it holds state,"),
        (added("state/link", tarfile.SYMTYPE, "/etc"), "it holds state/link"),
        (added("state/link", tarfile.LNKTYPE, "state/keys/gate.pem"), "it holds state/link"),
        (added("state/device", tarfile.CHRTYPE), "it holds state/device"),
        (added("state/keys/gate.pem"), "it holds state/keys/gate.pem"),
        (added("state/new"), "is damaged: state/new"),
        (of("state/keys/gate.pem", b"x" * 65), "is damaged: state/keys/gate.pem; use another backup"),
        (of("state/keys/gate.pem", None), "is damaged: state/keys/gate.pem"),
        (of("SHA256SUMS", None), "is damaged: .*use another backup"),
        (of("backup.json", None), "is no backup of Tidegate"),
        (of("backup.json", b"[]"), "is no backup of Tidegate"),
        (about(state="/elsewhere"), "is damaged: backup.json"),
        (about(kind="other"), "is no backup of Tidegate"),
        (about(format=2, commit="0123"), "has format 2, this code reads 1; restore it with commit 0123"),
    ],
)
def test_an_archive_that_is_damaged_or_not_ours_is_refused_before_anything_is_touched(
    state: Path, archive: Path, tmp_path: Path, change: Callable, message: str
) -> None:
    bad, before = rewritten(archive, tmp_path / "bad.tar.gz", change), contents(state)
    everything = names(tmp_path)
    with pytest.raises(BackupError, match=message):
        restore(bad, state, replace=True)
    assert contents(state) == before
    assert names(tmp_path) == everything


@pytest.mark.parametrize("length", [0, 10, 400, -150])
def test_an_archive_that_was_cut_off_is_refused(state: Path, archive: Path, tmp_path: Path, length: int) -> None:
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(archive.read_bytes()[:length])
    with pytest.raises(BackupError, match=r"is damaged|is no backup|nothing was restored"):
        restore(cut, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_no_changed_byte_of_an_archive_changes_the_state(state: Path, archive: Path, tmp_path: Path) -> None:
    before, content = contents(state), bytearray(archive.read_bytes())
    for position in range(0, len(content), 13):
        changed = content.copy()
        changed[position] ^= 0x10
        (tmp_path / "bad.tar.gz").write_bytes(changed)
        with suppress(BackupError):  # bytes that mean nothing are refused or not
            restore(tmp_path / "bad.tar.gz", tmp_path / f"restored-{position}")
            assert contents(tmp_path / f"restored-{position}") == before


def test_what_lies_elsewhere_is_named_without_its_password(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:secret@host/mlflow")
    monkeypatch.setenv("TIDEGATE_STORE", f"sqlite:///{state}/online.db")
    monkeypatch.setenv("TIDEGATE_TRUSTED_KEYS", "operator ed25519 AAAA name\n" * 20)
    assert backup.not_included(state) == [
        "runs, models and aliases (MLFLOW_TRACKING_URI)",
        "the gate's key (TIDEGATE_GATE_KEY)",
        "the operator's key (TIDEGATE_OPERATOR_KEY)",
        "the trusted keys (TIDEGATE_TRUSTED_KEYS)",
    ]


def test_a_restore_refuses_while_something_uses_the_state(
    state: Path, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    holds = "import sys; file = open(sys.argv[1]); print(flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", holds, state / "keys/gate.pem"], **pipes) as user:  # type: ignore[call-overload]
        user.stdout.readline()
        assert backup.main(["restore", "--replace", str(archive)]) == 2
        assert f"(pid {user.pid})" in capsys.readouterr().err
        user.communicate()
    named = ["serving.edge.serve"]  # an idle edge has no file open
    with subprocess.Popen([sys.executable, "-c", holds, os.devnull, *named], **pipes) as user:  # type: ignore[call-overload]
        user.stdout.readline()
        assert backup.main(["restore", "--replace", str(archive)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"stop what uses {state} (make stop, or Ctrl-C where it runs)" in line
        assert f"(pid {user.pid})" in line
        user.communicate()
    assert backup.main(["restore", "--replace", str(archive)]) == 0


def test_the_commands_say_what_they_did_and_what_comes_next(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert backup.main(["save", str(tmp_path / "to")]) == 0
    (archive,) = (tmp_path / "to").glob("tidegate-*.tar.gz")
    assert f"saved 4 files of {state} in {archive}, and checked them" in capsys.readouterr().out
    assert backup.main(["restore", str(archive)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {state} is not empty")
    assert backup.main(["restore", str(tmp_path / "no.tar.gz")]) == 2
    shutil.rmtree(state)
    assert backup.main(["restore", str(archive)]) == 0
    said = capsys.readouterr().out
    assert f"restored {state} as of" in said
    assert "answers to consent since then are lost" in said
    assert "features.materialize --no-answer denied" in said
    assert "next: `make status`" in said
