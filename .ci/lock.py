"""Write the lock files: the versions that pyproject.toml's needs have here, with the hashes of their files.

Run by `make lock`: pip first brings the environment to what pyproject.toml asks for, changing as little as it can. A
package that nothing needs stays out. uv asks PyPI (or UV_DEFAULT_INDEX) for the hashes of every file of these releases.
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
AUDIT = ".ci/audit.lock"  # of the tools of .ci/audit, which has an environment of its own
NOTE = "# Written by `make lock` from pyproject.toml; do not edit. Change a version there, then run it again.\n"
SOURCE_ONLY = "antlr4-python3-runtime"  # has no wheel; an old version that DVC's omegaconf needs
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


def with_hashes(requirements: str, *options: str) -> str:
    """These requirements, resolved, each with the hashes of all files of its release."""
    uv = [sys.executable, "-m", "uv", "--no-config", "pip", "compile", "--quiet", "--python", sys.executable]
    command = [*uv, "--no-header", "--no-annotate", "--generate-hashes", *options, "-"]
    return subprocess.run(command, input=requirements, stdout=subprocess.PIPE, encoding="utf-8", check=True).stdout


def main() -> int:
    wanted = sorted({str(each) for _, extras in LOCKS.values() for each in requirements(extras)})
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)
    for file, (what, extras) in LOCKS.items():
        pins = closure(requirements(extras))
        # The builds of torch (CPU, CUDA, platforms) lie on several indexes, and each has its own hash; see SECURITY.md.
        head = f"# {what}\n{NOTE}# Installed apart, without a hash:\n# torch=={pins.pop('torch')}\n"
        head += "--only-binary :all:\n" + (f"--no-binary {SOURCE_ONLY}\n" if SOURCE_ONLY in pins else "")
        lines = "".join(f"{name}=={version}\n" for name, version in pins.items())
        (ROOT / file).write_text(head + with_hashes(lines, "--no-deps"), encoding="utf-8")
        print(f"Wrote {len(pins) + 1} versions to {file}")
    tools = "".join(f"{each}\n" for each in requirements(("audit",)))
    (ROOT / AUDIT).write_text(f"# The tools of .ci/audit.\n{NOTE}{with_hashes(tools)}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
