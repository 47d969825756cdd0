"""Start, stop and find this project's TorchServe, and read what it logged.

Java is started directly, and found by its pid and by the folder in its command line. TorchServe's own launcher keeps
one pid file per machine, so two projects would stop each other's server.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

import psutil
from filelock import FileLock

from config.processes import END_WITH_PARENT
from serving.settings import ServerSettings, variable
from serving.torchserve import launch
from serving.torchserve.client import ServerError, TorchServe
from serving.torchserve.launch import ServerStartError, delete_old_snapshots, last_snapshot, render_properties

STOP_SECONDS = 15
PORT_RELEASE_SECONDS = 10  # how long a server that was killed may still hold its ports
EXCEPTION = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception)\b")
LOG_LINES, LOG_TAIL_BYTES = 12, 20_000  # shown in an error


def start(settings: ServerSettings, verified: Callable[[], Collection[Path]], end_with_parent: bool = False) -> bool:
    """Start the server unless it runs, and wait until it answers. True if it was started.

    The models of its last run are loaded again if their archives are among `verified()`, which is called before the
    start: their code runs (`archive_signature.verified_archives`). With `end_with_parent`, the system kills the server
    when the thread that called this ends; otherwise it stays until `stop`. Its workers end by themselves when it does.

    Raises:
        ServerStartError: a port is taken, or the server did not come up; shows its last log lines.
    """
    with lock(settings):
        running = find(settings)
        if running is None:
            launch.check_ports(settings, 0 if was_stopped(settings) else PORT_RELEASE_SECONDS)
        _wait_until_ready(settings, running or _launch(settings, verified, end_with_parent))
        return running is None


def stop(settings: ServerSettings, on_purpose: bool = True) -> bool:
    """Stop the server and its workers, by force where needed. False if it was not running.

    On purpose, it stays stopped: the supervisor ends, even if it is about to start the server again.
    """
    with lock(settings):
        process = find(settings)
        if on_purpose:
            _pid_file(settings).unlink(missing_ok=True)  # first, so that the supervisor does not take this for a crash
        if process is None:
            return False
        workers = process.children(recursive=True)
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()
        _, alive = psutil.wait_procs([process, *workers], timeout=STOP_SECONDS)
        for worker in alive:
            worker.kill()
        settings.key_file.unlink(missing_ok=True)
        return True


def find(settings: ServerSettings) -> psutil.Process | None:
    """This project's running server, or None. A pid that now belongs to another program does not count."""
    with suppress(OSError, ValueError, psutil.Error):
        process = psutil.Process(int(_pid_file(settings).read_text(encoding="ascii")))
        if launch.is_own_server(process.cmdline(), settings):
            return process
    for process in psutil.process_iter():  # its starter may have been killed before it wrote the pid
        with suppress(psutil.Error):
            if launch.is_own_server(process.cmdline(), settings):
                return process
    return None


def was_stopped(settings: ServerSettings) -> bool:
    """Whether `stop` ended the server on purpose, or it never ran. A server that was killed leaves its pid file."""
    return not _pid_file(settings).exists()


def describe(settings: ServerSettings) -> str:
    """One line on whether the server runs, and what it serves."""
    process = find(settings)
    if process is None:
        return "TorchServe is not running"
    with TorchServe.from_settings(settings) as client:
        models = ", ".join(sorted(client.models())) or "no model"
    return f"TorchServe runs at {settings.inference_url} (pid {process.pid}) and serves {models}"


def lock(settings: ServerSettings, name: str = "server") -> FileLock:
    """A lock that one process at a time holds. The system releases it when the process ends."""
    settings.server_home.mkdir(parents=True, exist_ok=True)
    return FileLock(settings.server_home / f"{name}.lock")


def load_failure(settings: ServerSettings, since: int) -> str:
    """Why the last worker to load died: the exception's own line; empty where none was logged.

    `since` is `worker_log_size` before the load.
    """
    text = _read_from(_worker_log(settings), since if worker_log_size(settings) >= since else 0)  # smaller: rotated
    events = []
    for line in text.splitlines():
        if '"logger":"MODEL_LOG"' in line:
            with suppress(ValueError):  # half a line, where the log was rotated
                events.append(json.loads(line)["event"])
    return next((event for event in reversed(events) if EXCEPTION.match(event)), "")


def worker_log_size(settings: ServerSettings) -> int:
    """Size of the workers' log in bytes."""
    path = _worker_log(settings)
    return path.stat().st_size if path.is_file() else 0


def _launch(
    settings: ServerSettings, verified: Callable[[], Collection[Path]], end_with_parent: bool
) -> psutil.Process:
    home = settings.server_home.resolve()
    logs, scratch = home / "logs", launch.scratch_folder(home)
    for folder in (home, logs, settings.model_store):
        folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(scratch, ignore_errors=True)  # what a killed server unpacked: a full disk has no room to verify then
    scratch.mkdir(mode=0o700, parents=True)
    logs.chmod(0o700)
    settings.key_file.unlink(missing_ok=True)  # or a client would read the tokens of the last run
    snapshots = logs / "config"
    snapshot = last_snapshot(snapshots, settings.model_store, verified())
    delete_old_snapshots(snapshots)
    config = home / "config.properties"
    config.write_text(render_properties(settings, snapshot), encoding="ascii")
    command = launch.command_line(settings, config, scratch)
    with (logs / "console.log").open("wb") as console:
        process = subprocess.Popen(
            [*END_WITH_PARENT, *command] if end_with_parent else command,
            cwd=home,
            env=launch.environment(logs, scratch),
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            umask=0o077,  # tokens, logs and uploads in its temporary folder are for its own user only
            start_new_session=True,  # Ctrl-C in the terminal that started it must not end it
        )
    _pid_file(settings).write_text(str(process.pid), encoding="ascii")
    return psutil.Process(process.pid)


def _wait_until_ready(settings: ServerSettings, process: psutil.Process) -> None:
    """Wait until the server accepts a token of this run, and the models that it loaded again have workers."""
    deadline = time.monotonic() + settings.start_seconds
    answered = False
    with TorchServe.from_settings(settings) as client:
        while time.monotonic() < deadline:
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                raise ServerStartError(f"TorchServe ended while starting; {_log_tail(settings)}")
            with suppress(ServerError):
                loaded = [version for name in client.models() for version in client.describe(name).values()]
                answered = True
                if all(version.ready and version.ready == version.workers for version in loaded):
                    return
            time.sleep(0.1)
    if not answered:  # a model without workers is for the deployment to repair; the server itself is up
        limit = f"{settings.start_seconds:g} s ({variable('start_seconds')})"
        raise ServerStartError(f"TorchServe did not answer within {limit}; {_log_tail(settings)}")


def _log_tail(settings: ServerSettings) -> str:
    logs = settings.server_home / "logs"
    text = _last_lines(logs / "console.log") or _last_lines(logs / "server.log") or "it logged nothing"
    return f"the end of its log in {logs}:\n{text}"


def _last_lines(path: Path) -> str:
    size = path.stat().st_size if path.is_file() else 0
    return "\n".join(_read_from(path, max(0, size - LOG_TAIL_BYTES)).splitlines()[-LOG_LINES:])


def _read_from(path: Path, position: int) -> str:
    """A log from a byte on; empty where there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        stream.seek(position)
        return stream.read().decode(errors="replace")


def _worker_log(settings: ServerSettings) -> Path:
    return settings.server_home / "logs" / "worker.log"


def _pid_file(settings: ServerSettings) -> Path:
    return settings.server_home / "server.pid"
