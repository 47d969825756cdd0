"""A Dockerfile's steps, and how to take them without Docker: in a folder for the image, with an environment for Python."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

WORKDIR = "/app"


def steps(path: Path) -> list[tuple[str, str]]:
    """(instruction, the rest of its line), in order; comments left out, broken lines joined."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in "\n".join(lines).replace("\\\n", " ").splitlines()]  # type: ignore[misc]


def of(path: Path, instruction: str) -> list[str]:
    """What stands behind every instruction of this name."""
    return [rest for name, rest in steps(path) if name == instruction]


def ignored(path: Path) -> list[str]:
    """Names that the file beside the Dockerfile keeps out of the image, wherever they lie."""
    lines = path.with_name(f"{path.name}.dockerignore").read_text().splitlines()
    return [line.removeprefix("**/") for line in lines if line.startswith("**/")]


class Image:
    """What the steps make.

    Args:
        folder: stands for the image's working directory.
        bin: where `python` and `pip` are found.
    """

    def __init__(self, path: Path, context: Path, folder: Path, bin: Path) -> None:
        self.path, self.context, self.folder = path, context, folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TIDEGATE_", "PYTHON"))}
        self.environment = {**kept, "PATH": f"{bin}:{os.environ['PATH']}"}

    def build(self, run: bool = True) -> None:
        """Take the steps; without `run`, those of pip are left out."""
        for instruction, rest in steps(self.path):
            if instruction == "COPY":
                self._copy(*shlex.split(rest))
            elif instruction == "RUN" and (run or "pip" not in rest):
                subprocess.run(["sh", "-c", rest], cwd=self.folder, env=self.environment, check=True)
            elif instruction in ("ENV", "ARG"):
                pairs = dict(pair.split("=", 1) for pair in shlex.split(rest))
                given = {name: self.within(value) for name, value in pairs.items()}
                # An argument is what the one who builds says, else its default.
                self.environment |= given if instruction == "ENV" else {**given, **_said(given)}

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        """What the container would run, as the head of a process group."""
        (entry,) = of(self.path, "ENTRYPOINT")
        told = {**self.environment, **environment}
        return subprocess.Popen(json.loads(entry), cwd=self.folder, env=told, start_new_session=True)

    def healthy(self, **environment: str) -> bool:
        """What the health check says."""
        (check,) = of(self.path, "HEALTHCHECK")
        command = json.loads(check[check.index("CMD") + 3 :])
        done = subprocess.run(
            command, cwd=self.folder, env={**self.environment, **environment}, stderr=subprocess.DEVNULL
        )
        return done.returncode == 0

    def within(self, value: str) -> str:
        return re.sub(rf"{WORKDIR}(?=/|$)", str(self.folder), value)

    def _copy(self, *paths: str) -> None:
        *sources, target = paths
        keep_out = shutil.ignore_patterns(*ignored(self.path))
        for source in sources:
            if (self.context / source).is_dir():
                shutil.copytree(self.context / source, self.folder / target, ignore=keep_out)
            else:
                shutil.copyfile(self.context / source, self.folder / target / Path(source).name)


def _said(names: dict[str, str]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}
