"""The layout of the repository: top-level names, packages, file names, docstrings."""

from __future__ import annotations

import ast
import importlib
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("config", "web", "data", "features", "training", "serving", "experiments")
TOP_LEVEL = {
    *FOLDERS, "benchmarks", "docs", "tests", "README.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE", "MLproject", "Makefile",
    "dvc.yaml", "dvc.lock", "mkdocs.yml", "params.yaml", "pyproject.toml", "python_env.yaml", "requirements.lock",
    "requirements-serving.lock", ".ci", ".dvc", ".dvcignore", ".gitattributes", ".github", ".gitignore",
}  # fmt: skip
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc", "manager"}


def python_files(*folders: str) -> list[Path]:
    """Every Python file in these folders (all that hold code, if none is named)."""
    names = folders or (*FOLDERS, "benchmarks", "tests", ".ci")
    found = [path for name in names for path in (ROOT / name).rglob("*.py")]
    return sorted(found)


@pytest.mark.parametrize("name", FOLDERS)
def test_top_level_names_come_from_this_clone(name: str) -> None:
    origin = importlib.import_module(name).__file__

    assert origin is not None
    assert Path(origin).resolve().is_relative_to(ROOT)


def test_the_repository_has_no_unknown_top_level_entry() -> None:
    # A key or a product that a command wrote into the clone must not be committed with `git add .`.
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, encoding="utf-8")
    if listed.returncode:
        pytest.skip("this is not a git clone")

    assert {path.partition("/")[0] for path in listed.stdout.splitlines()} <= TOP_LEVEL


def test_every_package_file_is_one_docstring() -> None:
    packages = {path.parent for path in python_files(*FOLDERS)} - {ROOT}
    wrong = []
    for package in sorted(packages):
        body = ast.parse((package / "__init__.py").read_text(encoding="utf-8")).body
        if len(body) != 1 or ast.get_docstring(ast.Module(body, [])) is None:
            wrong.append(str(package.relative_to(ROOT)))

    assert packages >= {ROOT / folder for folder in FOLDERS}
    assert not wrong, "an __init__.py holds its docstring and nothing else"


def test_no_package_file_lies_under_tests() -> None:
    # With one there, `import data` in a test could mean tests/data.
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_pyproject_names_every_package() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packages = {path.parent.relative_to(ROOT) for path in python_files(*FOLDERS) if path.name == "__init__.py"}

    assert set(setuptools["packages"]) == {".".join(package.parts) for package in packages}


def test_no_file_has_a_vague_name() -> None:
    assert not [path for path in python_files() if path.stem in VAGUE]


def test_every_file_has_a_docstring() -> None:
    without = [path for path in python_files() if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]

    assert not [path.relative_to(ROOT).as_posix() for path in without]


def opened_without_encoding(source: str) -> list[int]:
    """Lines that read or write text in the locale's encoding. ruff finds them only where it knows the type."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        named = {keyword.arg for keyword in node.keywords}
        own = isinstance(node.func, ast.Attribute) and (name, len(node.args))  # not data.files.write_text
        is_text = own in (("read_text", 0), ("write_text", 1))
        is_pipe = name in ("run", "Popen", "check_output") and named & {"text", "universal_newlines"}
        if is_text or is_pipe:
            found += [] if {"encoding", None} & named else [node.lineno]
    return found


def test_every_file_and_pipe_is_read_and_written_as_utf_8() -> None:
    found = {path: opened_without_encoding(path.read_text(encoding="utf-8")) for path in python_files()}

    assert {path.relative_to(ROOT).as_posix(): lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize("call", ["path.read_text()", "path.write_text('a')", "subprocess.run(command, text=True)"])
def test_text_in_the_encoding_of_the_locale_is_found(call: str) -> None:
    assert opened_without_encoding(call) == [1]
