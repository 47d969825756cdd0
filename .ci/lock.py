"""Write requirements.lock and requirements-serving.lock: the versions that pyproject.toml's needs have here.

Run by `make lock`: pip first brings the environment to what pyproject.toml asks for, changing as little as it can. A
package that nothing needs stays out.
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
SERVING = "TorchServe, its workers and the edge in front; part of requirements.lock."
LOCKS = {  # file -> (first line, extras of pyproject.toml; "" means its dependencies)
    "requirements.lock": ("Everything the project, its tests and its checks need.", ("", "test", "dev")),
    "requirements-serving.lock": (SERVING, ("serving", "edge")),
}
NOTE = "# Written by `make lock` from pyproject.toml; do not edit. Change a version there, then run it again.\n"
CUDA = re.compile(r"^(nvidia-|cuda-|triton$)")  # a CUDA build of torch requires these, so pip finds them by itself


def requirements(extras: tuple[str, ...]) -> list[Requirement]:
    """What pyproject.toml asks for under these extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"": project["dependencies"], **project["optional-dependencies"]}
    return [Requirement(line) for extra in extras for line in groups[extra]]


def closure(roots: list[Requirement]) -> dict[str, str]:
    """Every package that `roots` need, themselves included: canonical name -> installed version.

    Raises:
        SystemExit: a package is installed at a version that is not wanted.
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
        version = metadata.version(name)
        if not requirement.specifier.contains(version, prereleases=True):
            sys.exit(f"error: {name} {version} is installed; {requirement} is needed")
        found[name] = version.partition("+")[0]  # torch's 2.13.0+cpu is 2.13.0 on another machine
        for child in map(Requirement, metadata.requires(name) or []):
            if child.marker is None or child.marker.evaluate({"extra": extra}):
                todo += [(child, each) for each in ("", *child.extras)]
    return dict(sorted(found.items()))


def main() -> int:
    wanted = sorted({str(each) for _, extras in LOCKS.values() for each in requirements(extras)})
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)
    for file, (what, extras) in LOCKS.items():
        pins = closure(requirements(extras))
        lines = "".join(f"{name}=={version}\n" for name, version in pins.items())
        (ROOT / file).write_text(f"# {what}\n{NOTE}{lines}", encoding="utf-8")
        print(f"Wrote {len(pins)} versions to {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
