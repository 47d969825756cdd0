"""Save all of state/ in one archive while the platform runs, and restore it.

The archive is a .tar.gz that only its owner may read, because it holds keys. Its first file, backup.json, says what made
it; its last one, SHA256SUMS, has the digest of every other. Each file in it is whole: SQLite copies databases, a log ends
where it ended when it was read, and other files are replaced atomically by their writers.

A restore checks the archive and unpacks it next to the state folder, then renames the folder: it is done or not begun.
Answers to consent that came after the backup are lost. So nobody is read from a restored online store until
`features.materialize --no-answer` says what holds.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import shutil
import sqlite3
import sys
import tarfile
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from importlib import metadata
from importlib.util import find_spec
from itertools import count
from pathlib import Path, PurePosixPath
from typing import IO

import psutil
from filelock import FileLock

from config import files, paths
from config.command import UserError, exits_cleanly
from data.times import now_iso, now_us
from features.online.connect import mark_restored
from serving import settings as environment
from serving.settings import ServerSettings
from serving.torchserve import server
from training import provenance

KIND, FORMAT = "tidegate backup", 1
ABOUT, SUMS, STATE, SUFFIX = "backup.json", "SHA256SUMS", "state", ".tar.gz"
SQLITE_HEADER, SQLITE_SECONDS = b"SQLite format 3\0", 60
LEFT_OUT = ("-wal", "-shm", "-journal", files.PARTIAL)  # SQLite's own, and what is not complete
ELSEWHERE = {  # variables that can keep a part of the state outside of the folder
    "MLFLOW_TRACKING_URI": "runs, models and aliases",
    "TIDEGATE_STORE": "the online store",
    "TIDEGATE_STUDY_STORAGE": "studies",
    "TIDEGATE_GATE_KEY": "the gate's key",
    "TIDEGATE_GATE_KEY_FILE": "the gate's key",
    "TIDEGATE_OPERATOR_KEY": "the operator's key",
    "TIDEGATE_OPERATOR_KEY_FILE": "the operator's key",
    "TIDEGATE_TRUSTED_KEYS": "the trusted keys",
    "TIDEGATE_TRUSTED_KEYS_FILE": "the trusted keys",
    "TIDEGATE_COLLECT_HOME": "the event log, rejected events and write keys",
    "TIDEGATE_EDGE_HOME": "API keys and served log",
    "TIDEGATE_EDGE_KEY_FILE": "API keys",
    "TIDEGATE_EDGE_USER_KEYS": "the keys of pseudonyms",
    "TIDEGATE_EDGE_USER_SECRET": "the keys of pseudonyms",
}
SERVERS = ("data.collect.serve", "serving.edge.serve", "serving.supervisor")
# Columns in which MLflow keeps absolute addresses of artifacts.
ADDRESSES = {
    "experiments": "artifact_location",
    "runs": "artifact_uri",
    "model_versions": "storage_location",
    "logged_models": "artifact_location",
}


class BackupError(UserError):
    """A state cannot be saved, or an archive cannot be restored; the text says why, and nothing was changed."""


def save(state: Path, target: Path) -> int:
    """Write the archive of a state folder, check it, and give it its name; the number of files in it.

    Raises:
        BackupError: there is nothing to save, a database is damaged, or the disk refuses the archive.
    """
    state, target = state.resolve(), target.resolve()
    if target.is_relative_to(state):
        raise BackupError(f"{target} lies in {state}, which it is to save; choose another place")
    if not any(path.is_file() for path in _walk(state)):
        raise BackupError(f"{state} holds nothing to save")
    versions = {name: metadata.version(name) for name in ("torch", "mlflow") if find_spec(name)}
    about = {"kind": KIND, "format": FORMAT, "time": now_iso(), "state": str(state), "commit": provenance.commit(),
             "versions": versions, "not_included": not_included(state)}  # fmt: skip
    try:
        with _scratch_folder(target.parent, "backup") as scratch:
            archive = scratch / target.name
            archive.touch(0o600)
            _write(archive, state, about, scratch)
            count = len(check(archive)[1]) - 1  # without backup.json
            files.sync(archive)
            archive.replace(target)
            files.sync(target.parent)
    except OSError as error:
        raise BackupError(f"no backup was made: {error}") from None
    return count


def restore(archive: Path, state: Path, replace: bool = False) -> tuple[dict, Path | None]:
    """Put the state of an archive in place; what made the archive, and where the former state is kept.

    Raises:
        BackupError: the state is not empty and `replace` is not set, the archive is damaged or no backup, or the disk
            refuses the new state.
    """
    state = state.resolve()
    is_used = state.exists() and any(state.iterdir())
    if is_used and not replace:
        raise BackupError(
            f"{state} is not empty; REPLACE=1 (--replace) keeps it aside and puts the backup in its place"
        )
    if state.is_mount():
        raise BackupError(f"{state} is a mount point, which cannot be renamed; set {paths.STATE} to a folder in it")
    aside = _unused(state.with_name(f"{state.name}.before-{_now()}"))
    try:
        about, _ = check(archive)
        with _scratch_folder(state.parent, "restore") as scratch:
            with tarfile.open(archive, "r:gz") as tar:
                tar.extractall(scratch, filter="tar")
            _move_addresses(scratch / STATE / "mlflow.db", Path(about["state"]), state)
            for path in filter(_is_database, _walk(scratch / STATE)):
                mark_restored(path, now_us())
            files.sync_tree(scratch / STATE)
            if is_used:
                state.rename(aside)
            (scratch / STATE).rename(state)
            files.sync(state.parent)
    except OSError as error:
        raise BackupError(f"nothing was restored: {error}") from None
    return about, aside if is_used else None


def check(archive: Path) -> tuple[dict, dict[str, str]]:
    """What made an archive, and the digest of each file in it, which was compared.

    Raises:
        BackupError: it is no backup, of a newer format, damaged or incomplete, or an entry lies outside of the state.
    """
    found: dict[str, str] = {}  # name -> digest
    listed = ""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            about = _read_about(tar, archive)
            for entry in tar:
                name = PurePosixPath(entry.name)
                inside = name.parts[:1] == (STATE,) and len(name.parts) > 1 and ".." not in name.parts
                plain = entry.isreg() or (inside and entry.isdir())  # no link, no device
                if not (plain and (inside or entry.name in (ABOUT, SUMS))) or entry.name in found or SUMS in found:
                    raise BackupError(
                        f"{archive} is no backup of Tidegate: it holds {entry.name}, which is not of a state"
                    )
                stream = tar.extractfile(entry)
                if entry.name == SUMS and stream is not None:
                    found[SUMS], listed = "", stream.read().decode(errors="replace")
                elif stream is not None:
                    found[entry.name] = hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise BackupError(f"{archive} is damaged: {error}; use another backup") from None
    found.pop(SUMS, None)
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in listed.split("\n")[:-1])}
    if found != expected:
        wrong = sorted({name for name, _ in found.items() ^ expected.items()})
        raise BackupError(f"{archive} is damaged: {', '.join(wrong[:3])}; use another backup")
    return about, found


def not_included(state: Path) -> list[str]:
    """What the environment keeps outside of the state folder. Values are left out, because they may hold passwords."""
    given = {name: os.environ[name] for name in ELSEWHERE if os.environ.get(name)}
    outside = {
        name
        for name, value in given.items()
        if not Path(value.removeprefix("sqlite:///")).resolve().is_relative_to(state.resolve())
    }
    return [f"{what} ({name})" for name, what in ELSEWHERE.items() if name in outside]


def users_of(state: Path, settings: ServerSettings) -> Iterator[str]:
    """The other processes that use a state folder: they have a file of it open, or they serve from it."""
    torchserve = server.find(settings)
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = process.cmdline()
            own = Path(process.cwd(), process.environ().get(paths.STATE) or STATE).resolve()
            serves = process == torchserve or (own == state.resolve() and not set(SERVERS).isdisjoint(command))
            holds = any(Path(file.path).is_relative_to(state.resolve()) for file in process.open_files())
            if process.pid != os.getpid() and (serves or holds):
                yield f"{'TorchServe' if process == torchserve else ' '.join(command[:3])} (pid {process.pid})"


def _unused(path: Path) -> Path:
    """The path, or with -2, -3 ... where something has that name: two restores may fall into one second."""
    names = (path if number == 1 else path.with_name(f"{path.name}-{number}") for number in count(1))
    return next(name for name in names if not name.exists())


@contextmanager
def _scratch_folder(parent: Path, purpose: str) -> Iterator[Path]:
    """An empty folder for its owner only, removed at the end. What a killed process left in it is removed first."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = parent / f".tidegate-{purpose}"
    with FileLock(f"{folder}.lock"):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _walk(state: Path) -> Iterator[Path]:
    """Every folder and file to save, also behind links."""
    for folder, _, names in os.walk(state, followlinks=True):
        if Path(folder) != state:
            yield Path(folder)
        for path in (Path(folder, name) for name in names):
            is_lock = path.suffix == ".lock" and path.exists() and not path.stat().st_size
            if path.is_file() and not is_lock and not path.name.endswith(LEFT_OUT):
                yield path


def _in_order(state: Path) -> Iterator[Path]:
    """What to save, in an order that keeps together what belongs together.

    First what remembers the registry: a host refuses a registry without the newest decision it has seen; and the daily
    partitions, so that the event log reaches as far as they do.
    Then databases. Then what they name: artifacts, also those that are new meanwhile, and the keys of their signatures.
    """

    def turn(path: Path) -> int:
        early = (state / paths.DEPLOYMENTS, state / paths.COLLECT / paths.PARTITIONS)
        return 0 if any(map(path.is_relative_to, early)) else 1 if _is_database(path) else 2

    first = sorted((path for path in _walk(state) if turn(path) < 2), key=turn)
    yield from first
    yield from (path for path in _walk(state) if turn(path) == 2)


class _HashingReader:
    def __init__(self, stream: IO[bytes]) -> None:
        self.stream, self.hash = stream, hashlib.sha256()

    def read(self, size: int) -> bytes:
        part = self.stream.read(size)
        self.hash.update(part)
        return part


def _write(archive: Path, state: Path, about: dict, scratch: Path) -> None:
    facts = json.dumps(about, indent=1) + "\n"
    sums = f"{hashlib.sha256(facts.encode()).hexdigest()}  {ABOUT}\n"
    with tarfile.open(archive, "w:gz", compresslevel=3) as tar:

        def add_text(name: str, text: str) -> None:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(text.encode()), 0o600, int(time.time())
            tar.addfile(entry, io.BytesIO(text.encode()))

        add_text(ABOUT, facts)
        for path in _in_order(state):
            name = PurePosixPath(STATE, path.relative_to(state)).as_posix()
            with suppress(FileNotFoundError):  # removed meanwhile
                source = _copy_database(path, scratch) if _is_database(path) else path
                if source.is_dir():
                    tar.add(source, name, recursive=False)
                    continue
                with source.open("rb") as file:
                    entry, reader = tar.gettarinfo(arcname=name, fileobj=file), _HashingReader(file)
                    entry.mode = path.stat().st_mode & 0o777
                    tar.addfile(entry, reader)  # type: ignore[arg-type]  # it only reads
                sums += f"{reader.hash.hexdigest()}  {name}\n"
        add_text(SUMS, sums)


def _is_database(path: Path) -> bool:
    with suppress(OSError), path.open("rb") as file:
        return file.read(len(SQLITE_HEADER)) == SQLITE_HEADER
    return False


def _copy_database(path: Path, scratch: Path) -> Path:
    """A consistent copy of a SQLite database, which others may be writing. Raises BackupError if it is damaged."""
    copy = scratch / "database"
    copy.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(path, SQLITE_SECONDS)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
            (result,) = target.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.Error as error:
        result = str(error)
    if result != "ok":
        raise BackupError(
            f"no backup was made: {path} cannot be copied ({result}); if it is damaged, restore the last one"
        )
    return copy


def _read_about(tar: tarfile.TarFile, archive: Path) -> dict:
    """What made the archive. Raises BackupError if its first file does not say that, or names a newer format."""
    about, first = None, tar.next()
    if first is not None and first.name == ABOUT and (stream := tar.extractfile(first)) is not None:
        with suppress(ValueError):
            about = json.load(stream)
    if not isinstance(about, dict) or about.get("kind") != KIND or not isinstance(about.get("format"), int):
        raise BackupError(f"{archive} is no backup of Tidegate")
    if about["format"] > FORMAT:
        format_, commit = about["format"], about.get("commit")
        raise BackupError(f"{archive} has format {format_}, this code reads {FORMAT}; restore it with commit {commit}")
    return about


def _move_addresses(database: Path, old: Path, new: Path) -> None:
    """Change the addresses of artifacts in MLflow's database from one state folder to another."""
    if database.exists() and old != new:
        with closing(sqlite3.connect(database)) as connection, connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            for table, column in ((table, column) for table, column in ADDRESSES.items() if table in tables):
                for before, after in ((f"{old.as_uri()}/", f"{new.as_uri()}/"), (f"{old}/", f"{new}/")):
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                        (after, len(before) + 1, len(before), before),
                    )


def _now() -> str:
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())


def _save_command(arguments: argparse.Namespace) -> None:
    state, to = paths.state(), arguments.to
    target = to if to.name.endswith(SUFFIX) else to / f"tidegate-{_now()}{SUFFIX}"
    print(f"saved {save(state, target)} files of {state} in {target}, and checked them")
    for missing in not_included(state):
        print(f"not in it: {missing}")
    print("it holds keys and personal data: keep it as safe as them, on another machine")


def _restore_command(arguments: argparse.Namespace) -> None:
    state = paths.state()
    if running := list(users_of(state, environment.load())):
        raise BackupError(f"stop what uses {state} (make stop, or Ctrl-C where it runs): {', '.join(running)}")
    about, aside = restore(arguments.archive, state, arguments.replace)
    print(f"restored {state} as of {about['time']}, saved by commit {about['commit']}")
    if aside is not None:
        print(f"the former state is kept in {aside}; remove it when you no longer need it")
    for missing in about["not_included"]:
        print(f"not in the backup: {missing}")
    print("answers to consent since then are lost. No user gets personal answers until you say what holds:")
    print(
        "load them: `.venv/bin/python -m features.materialize --events FILE --no-answer not-asked`; or, without them,"
    )
    print("`.venv/bin/python -m features.materialize --no-answer denied`: no yes from before the restore holds then")
    print("next: `make status` shows what is missing, `make stage` serves the champion, `make edge` starts the edge")


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.backup", description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(required=True)
    saving = actions.add_parser("save", help="write an archive; the platform may run")
    to_help = f"a folder, or a file NAME{SUFFIX}; default: %(default)s"
    saving.add_argument("to", type=Path, nargs="?", default=paths.backups(), help=to_help)
    saving.set_defaults(run=_save_command)
    restoring = actions.add_parser("restore", help="put the state of an archive in place; nothing may run")
    restoring.add_argument("archive", type=Path)
    restoring.add_argument(
        "--replace", action="store_true", help="keep a state that is not empty aside, and replace it"
    )
    restoring.set_defaults(run=_restore_command)
    arguments = parser.parse_args(argv)
    arguments.run(arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
