"""Start, stop and look at the one TorchServe of this project, on loopback.

Java is started directly, and known by its pid and by the folder that its command line names: TorchServe's own
launcher keeps one pid file per machine, so that two projects would stop each other's server.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
from filelock import FileLock

from config.command import exits_cleanly
from serving import settings
from serving.settings import ServerSettings, variable
from serving.torchserve import launch
from serving.torchserve.client import ServerError, TorchServe
from serving.torchserve.launch import ServerStartError
from serving.torchserve.properties import forget_old_snapshots, last_lines, last_snapshot, properties

STOP_SECONDS = 15
DYING_SECONDS = 10  # how long a server that was killed may still hold its ports


def start(settings: ServerSettings) -> bool:
    """Start the server unless it runs; return once it answers. True if it was started.

    The models of its last run come back with it.

    Raises:
        ServerStartError: a port is taken, or the server did not come up; shows its last log lines.
        JavaError: no Java.
    """
    with lock(settings):
        running = find(settings)
        if running is None:
            killed = _pid_file(settings).exists()  # one that was stopped takes it away
            launch.check_ports(settings, DYING_SECONDS if killed else 0)
            running = _launch(settings)
            _await(settings, running)
            return True
        _await(settings, running)
        return False


def stop(settings: ServerSettings) -> bool:
    """Stop the server, politely, then by force; its workers go with it. False if it was not running."""
    with lock(settings):
        process = find(settings)
        if process is None:
            return False
        workers = process.children(recursive=True)
        _pid_file(settings).unlink(missing_ok=True)  # first, so that nobody takes this end for a crash
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()
        _, left = psutil.wait_procs([process, *workers], timeout=STOP_SECONDS)
        for worker in left:
            worker.kill()
        settings.key_file.unlink(missing_ok=True)
        return True


def find(settings: ServerSettings) -> psutil.Process | None:
    """This project's running server, or None. A pid that now belongs to another program is not it."""
    with suppress(OSError, ValueError, psutil.Error):
        process = psutil.Process(int(_pid_file(settings).read_text()))
        if launch.is_ours(process.cmdline(), settings):
            return process
    for process in psutil.process_iter():  # started by someone who was killed before the pid was written
        with suppress(psutil.Error):
            if launch.is_ours(process.cmdline(), settings):
                return process
    return None


def stopped(settings: ServerSettings) -> bool:
    """Whether the server is down because `stop` was called, or it never started; one that was killed left its pid."""
    return not _pid_file(settings).exists()


def describe(settings: ServerSettings) -> str:
    """One line on whether the server runs, and what it serves."""
    process = find(settings)
    if process is None:
        return "TorchServe is not running"
    models = ", ".join(sorted(TorchServe.of(settings).models())) or "nothing"
    return f"TorchServe runs at {settings.inference_url} (pid {process.pid}) and serves {models}"


def lock(settings: ServerSettings, name: str = "server") -> FileLock:
    """A lock that one process at a time holds; the system releases it when the process ends."""
    settings.server_home.mkdir(parents=True, exist_ok=True)
    return FileLock(settings.server_home / f"{name}.lock")


def _launch(settings: ServerSettings) -> psutil.Process:
    home = settings.server_home.resolve()
    logs, scratch = home / "logs", launch.scratch_folder(home)
    for folder in (home, logs, settings.model_store):
        folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(scratch, ignore_errors=True)  # models unpacked by a server that was killed
    scratch.mkdir(parents=True)
    settings.key_file.unlink(missing_ok=True)  # or a client would read the tokens of the run before
    snapshots = logs / "config"
    snapshot = last_snapshot(snapshots, settings.model_store)
    forget_old_snapshots(snapshots)
    config = home / "config.properties"
    config.write_text(properties(settings, snapshot))
    with (logs / "console.log").open("wb") as console:
        process = subprocess.Popen(
            launch.command(settings, config, scratch),
            cwd=home,
            env=launch.environment(logs, scratch),
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C at the terminal that started it is not meant for it
        )
    _pid_file(settings).write_text(str(process.pid))
    return psutil.Process(process.pid)


def _await(settings: ServerSettings, process: psutil.Process) -> None:
    """Wait until the server answers with a token of this run, and the models that came back have workers."""
    deadline = time.monotonic() + settings.start_seconds
    answered = False
    with TorchServe.of(settings) as client:
        while time.monotonic() < deadline:
            if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
                raise ServerStartError(f"TorchServe ended while starting; {_story(settings)}")
            with suppress(ServerError):
                loaded = [live for name in client.models() for live in client.describe(name).values()]
                answered = True
                if all(live.ready and live.ready == live.workers for live in loaded):
                    return
            time.sleep(0.1)
    if not answered:  # a model that does not come back is for deploy to mend; the server itself is up
        limit = f"{settings.start_seconds:g} s ({variable('start_seconds')})"
        raise ServerStartError(f"TorchServe did not answer within {limit}; {_story(settings)}")


def _story(settings: ServerSettings) -> str:
    logs = settings.server_home / "logs"
    text = last_lines(logs / "console.log") or last_lines(logs / "server.log") or "it logged nothing"
    return f"the end of its log in {logs}:\n{text}"


def _pid_file(settings: ServerSettings) -> Path:
    return settings.server_home / "server.pid"


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.server", description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("start", "stop", "status"))
    action = parser.parse_args(argv).action
    environment = settings.load()
    if action == "start":
        fresh = start(environment)
        print(f"{'started' if fresh else 'was running already'}: {describe(environment)}")
    elif action == "stop":
        print("stopped TorchServe" if stop(environment) else "TorchServe was not running")
    else:
        print(describe(environment))
        return 0 if find(environment) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
