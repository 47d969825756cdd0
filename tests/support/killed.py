"""Runs a verb in a process that kills itself, as kill -9 does, at the first step where none was killed before.

A step is whatever outlives the process: a call of TorchServe or of the registry, a file of the stage. One line of JSON
on stdin (verb, what of, where it was killed before) gives one on stdout: {"killed": step} or {"ended": null or why}.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import mlflow
import sqlalchemy.orm

from config import files
from config.params import Rollout
from serving import deploy, rollout
from serving.artifact import archive
from serving.deployment import promotion, reconcile, registry, rollout_stage
from serving.settings import ServerSettings
from serving.torchserve.client import TorchServe

AMID_SECONDS = 0.3  # after a version began to load
NAME = "tiny"
CLIENT = "set_registered_model_alias set_registered_model_tag create_model_version log_artifacts"
STEPS: dict[type, list[str]] = {
    mlflow.MlflowClient: CLIENT.split(),
    TorchServe: ["register", "scale", "set_default", "unregister"],
}


def watch(before: set[str], result_pipe: int) -> None:
    """Have every step end this process unless its name is among those before; the name goes to a pipe first."""

    def die(name: str) -> None:
        if name not in before:
            os.write(result_pipe, json.dumps({"killed": name}).encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(owner: Any, name: str, label: Callable[..., str]) -> None:
        original = getattr(owner, name)

        def step(*arguments: Any, **named: Any) -> Any:
            die(label(*arguments, **named))
            return original(*arguments, **named)

        setattr(owner, name, step)

    for owner, names in STEPS.items():
        for name in names:
            wrap(owner, name, lambda _, *arguments, name=name, **named: _label(name, arguments))
    wrap(files, "write_bytes", lambda path, content, **_: _label_of_file(path, content))
    wrap(rollout_stage, "append_once", lambda path, event: f"history {event.event}")
    register = TorchServe.register

    def amid(self: TorchServe, *arguments: Any, **named: Any) -> None:
        threading.Timer(AMID_SECONDS, lambda: die(f"amid register {arguments[0]}")).start()
        register(self, *arguments, **named)

    TorchServe.register = amid  # type: ignore[method-assign]


def _label(name: str, arguments: tuple) -> str:
    return " ".join([name, *(str(one) for one in arguments[:3] if len(str(one)) < 20)])


def _label_of_file(path: Path, content: bytes) -> str:
    if path.name != f"{NAME}.json":
        return f"write {path.name}"
    stage = json.loads(content)
    return f"stage {stage['phase']} {stage['share']:g}"


def run(verb: str, order: dict[str, Any]) -> None:
    settings, say = ServerSettings(**order["settings"]), lambda text: print(text, file=sys.stderr)
    if verb == "register":
        version = registry.register_version(NAME, Path(order["artifact"]))
        promotion.promote(NAME, version, {"verdict": "PROMOTE", "reason": "a test"})
    elif verb == "rollout":
        rollout.rollout(NAME, settings, Rollout.model_validate(order["plan"]), say)
    else:
        if verb == "rollback" and not _done(settings):
            deploy.roll_back(NAME, settings, "a test", force=True)
        reconcile.deploy(NAME, settings, say)


def _done(settings: ServerSettings) -> bool:
    """Whether the rollback was obeyed: then it is not ordered anew, which would be another one."""
    standing = rollout_stage.read_stage(rollout_stage.stage_path(NAME, settings))
    return standing is not None and bool(standing.rollback_reason)


def main() -> None:
    for slow in ("model_registry", "tracking"):  # here, not in each process
        importlib.import_module(f"mlflow.store.{slow}.sqlalchemy_store")
    sqlalchemy.orm.configure_mappers()
    archive.worker_modules = cache(archive.worker_modules)
    archive.worker_modules(archive.ROOT)
    for line in sys.stdin:
        order = json.loads(line)
        end, result_pipe = os.pipe()
        child = os.fork()
        if not child:
            try:
                watch(set(order["before"]), result_pipe)
                run(order["verb"], order)
                fault = None
            except BaseException as error:
                fault = repr(error)
            os.write(result_pipe, json.dumps({"ended": fault}).encode())
            os._exit(0)
        os.close(result_pipe)
        os.waitpid(child, 0)
        with os.fdopen(end) as pipe:
            print(pipe.read(), flush=True)


if __name__ == "__main__":
    main()
