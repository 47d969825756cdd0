"""TorchServe's config.properties, written anew at each start with the models of the last snapshot."""

from __future__ import annotations

import json
import re
from pathlib import Path

from serving.settings import ServerSettings

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
