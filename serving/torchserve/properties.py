"""TorchServe's config.properties, written anew at each start, with the models of the last snapshot in it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from serving.settings import ServerSettings

SNAPSHOTS_KEPT = 5


def properties(settings: ServerSettings, snapshot: dict | None) -> str:
    """The text of config.properties.

    Args:
        snapshot: the models to load at start, as `last_snapshot` gives them; None starts empty.
    """
    store = settings.model_store.resolve()
    lines = {
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
        "model_metrics_auto_detect": "true",  # or only those that a file of TorchServe's own names would be kept
        "decode_input_request": "false",  # the handler does, and answers bad JSON with a 400
        "max_request_size": settings.max_request_bytes,
        "default_workers_per_model": 1,
        "default_response_timeout": settings.answer_seconds,
        "default_startup_timeout": settings.load_seconds,
        "unregister_model_timeout": 30,
        "number_of_gpu": 0,
    }
    if snapshot:
        lines["model_snapshot"] = json.dumps(snapshot, separators=(",", ":"))
    return "".join(f"{key}={_escape(str(value))}\n" for key, value in lines.items())


def last_snapshot(folder: Path, store: Path) -> dict | None:
    """The models that the newest snapshot names, if their archives still exist; None where none is left.

    TorchServe writes a snapshot after every change of a model. The server's other settings in it are not
    read: they belong to the environment of the start that wrote them.
    """
    for path in sorted(folder.glob("*-snapshot.cfg"), reverse=True):
        snapshot = _read_snapshot(path)
        if snapshot is not None:
            return _existing(snapshot, store)
    return None


def forget_old_snapshots(folder: Path) -> None:
    """Keep the newest few: TorchServe never removes one."""
    for path in sorted(folder.glob("*.cfg"))[:-SNAPSHOTS_KEPT]:
        path.unlink(missing_ok=True)


def _read_snapshot(path: Path) -> dict | None:
    stated = re.search(r"^model_snapshot=((?:.*\\\n)*.*)$", path.read_text(), re.MULTILINE)
    if stated is None:
        return None
    try:
        return json.loads(_unescape(stated.group(1)))
    except ValueError:  # cut short by a crash: the one before it holds
        return None


def _existing(snapshot: dict, store: Path) -> dict | None:
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
    return "".join(sign if sign.isascii() else f"\\u{ord(sign):04x}" for sign in plain)  # Java reads Latin-1


def _unescape(value: str) -> str:
    plain = {"n": "\n", "t": "\t", "r": "\r"}
    joined = re.sub(r"\\\n\s*", "", value)
    return re.sub(r"\\(.)", lambda found: plain.get(found.group(1), found.group(1)), joined)


CAUSE = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception)\b")


def load_failure(settings: ServerSettings, since: int) -> str:
    """Why the worker that was last loaded died: the exception's own line; empty where none was logged.

    Args:
        since: what `worker_log_size` said before the load.
    """
    path = _worker_log(settings)
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        stream.seek(since if path.stat().st_size >= since else 0)  # smaller: a new file was begun meanwhile
        logged = stream.read().decode(errors="replace")
    said = [_event(line) for line in logged.splitlines() if '"logger":"MODEL_LOG"' in line]
    causes = [text for text in said if CAUSE.match(text)]
    return causes[-1] if causes else ""


def worker_log_size(settings: ServerSettings) -> int:
    """Bytes that the workers have logged so far."""
    path = _worker_log(settings)
    return path.stat().st_size if path.is_file() else 0


def last_lines(path: Path, count: int = 12) -> str:
    """The end of a log file; empty where there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - 20_000))
        return "\n".join(stream.read().decode(errors="replace").splitlines()[-count:])


def _event(line: str) -> str:
    try:
        return json.loads(line)["event"]
    except ValueError:  # half a line, of a file that was begun meanwhile
        return ""


def _worker_log(settings: ServerSettings) -> Path:
    return settings.server_home / "logs" / "worker.log"
