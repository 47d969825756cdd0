"""Write requirements.lock and requirements-serving.lock: the versions that pyproject.toml's needs have here.

Run by `make lock`: pip first brings the environment to what pyproject.toml asks for, changing as little as it
can. Only what is reachable from there enters, so that a package somebody tried out and left stays out.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
HEAD = """\
# {what}
# Written by `make lock` from pyproject.toml; do not edit. Change a version there, then run it again.
"""
LOCKS = {  # file -> (first line, extras of pyproject.toml; "" means its dependencies)
    "requirements.lock": ("Everything the project, its tests and its checks need.", ("", "test", "dev")),
    "requirements-serving.lock": (
        "TorchServe, its workers and the edge in front; part of requirements.lock.",
        ("serving", "edge"),
    ),
}
# A CUDA build of torch brings these, each platform others, so pip takes them from torch's own word.
CUDA = re.compile(r"^(nvidia-|cuda-|triton$)")


def requirements(extras: tuple[str, ...]) -> list[Requirement]:
    """What pyproject.toml asks for under these extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return [Requirement(line) for extra in extras for line in groups[extra]]


def closure(roots: list[Requirement]) -> dict[str, str]:
    """Every package that `roots` need, themselves included: canonical name -> installed version.

    Raises:
        SystemExit: a needed package is not installed, or at a version that is not wanted.
    """
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    todo = [(requirement, extra) for requirement in roots for extra in ("", *requirement.extras)]
    while todo:
        requirement, extra = todo.pop()
        name = canonicalize_name(requirement.name)
        if (name, extra) in seen or CUDA.match(name):
            continue
        seen.add((name, extra))
        found[name] = _version(requirement)
        for line in metadata.requires(name) or []:
            child = Requirement(line)
            if child.marker is None or child.marker.evaluate({"extra": extra}):
                todo += [(child, each) for each in ("", *child.extras)]
    return dict(sorted(found.items()))


def _version(requirement: Requirement) -> str:
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        sys.exit(f"error: {requirement.name} is not installed; {requirement} is needed")
    if not requirement.specifier.contains(version, prereleases=True):
        sys.exit(f"error: {requirement.name} {version} is installed; {requirement} is needed")
    return version.partition("+")[0]  # torch's 2.13.0+cpu is 2.13.0 on another machine


def main() -> int:
    wanted = sorted({str(each) for _, extras in LOCKS.values() for each in requirements(extras)})
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)
    for file, (what, extras) in LOCKS.items():
        pins = closure(requirements(extras))
        lines = [f"{name}=={version}\n" for name, version in pins.items()]
        (ROOT / file).write_text(HEAD.format(what=what) + "".join(lines))
        print(f"Wrote {len(pins)} versions to {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
