"""Run a Dockerfile's steps without Docker, in a folder that stands for the image."""

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
    """(instruction, arguments) in order, without comments and with continued lines joined."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in "\n".join(lines).replace("\\\n", " ").splitlines()]  # type: ignore[misc]


def arguments(path: Path, instruction: str) -> list[str]:
    """The arguments of every instruction of this name."""
    return [rest for name, rest in steps(path) if name == instruction]


def ignored(path: Path) -> list[str]:
    """Name patterns that the .dockerignore file excludes in every folder."""
    lines = path.with_name(f"{path.name}.dockerignore").read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("**/") for line in lines if line.startswith("**/")]


class Image:
    """The result of the steps.

    Args:
        folder: stands for the image's working directory.
        bin: folder of `python` and `pip`.
    """

    def __init__(self, path: Path, context: Path, folder: Path, bin: Path) -> None:
        self.path, self.context, self.folder = path, context, folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TIDEGATE_", "PYTHON"))}
        self.environment = {**kept, "PATH": f"{bin}:{os.environ['PATH']}"}

    def build(self, run_pip: bool = True) -> None:
        """Run the steps except those of apt; with `run_pip` False, except those of pip, too."""
        for instruction, rest in steps(self.path):
            if instruction == "COPY":
                self._copy(*shlex.split(rest))
            elif instruction == "RUN" and "apt-get" not in rest and (run_pip or "pip" not in rest):
                subprocess.run(["sh", "-c", rest], cwd=self.folder, env=self.environment, check=True)
            elif instruction in ("ENV", "ARG"):
                pairs = dict(pair.split("=", 1) for pair in shlex.split(rest))
                values = {name: self.within(value) for name, value in pairs.items()}
                # A build argument comes from the environment of the build, else it has its default.
                self.environment |= values if instruction == "ENV" else {**values, **_from_environment(values)}

    def start(self, *wrapper: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start what tini starts in the container, by a command that runs its arguments."""
        (entry,) = arguments(self.path, "ENTRYPOINT")
        init, separator, *command = json.loads(entry)
        assert (init, separator) == ("tini", "--")
        variables = {**self.environment, **environment}
        return subprocess.Popen([*wrapper, *command], cwd=self.folder, env=variables, start_new_session=True)

    def healthy(self, **environment: str) -> bool:
        """Whether the health check passes."""
        (check,) = arguments(self.path, "HEALTHCHECK")
        command = json.loads(check[check.index("CMD") + 3 :])
        done = subprocess.run(
            command, cwd=self.folder, env={**self.environment, **environment}, stderr=subprocess.DEVNULL
        )
        return done.returncode == 0

    def within(self, value: str) -> str:
        return re.sub(rf"{WORKDIR}(?=/|$)", str(self.folder), value)

    def _copy(self, *paths: str) -> None:
        *sources, target = paths
        ignore = shutil.ignore_patterns(*ignored(self.path))
        for source in sources:
            if (self.context / source).is_dir():
                shutil.copytree(self.context / source, self.folder / target, ignore=ignore)
            else:
                shutil.copyfile(self.context / source, self.folder / target / Path(source).name)


def _from_environment(names: dict[str, str]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}
