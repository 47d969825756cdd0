"""Dependencies are used unmodified: no patches and no private API."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from config.paths import ROOT

FOLDERS = ("benchmarks", "config", "data", "experiments", "features", "serving", "training", "web")
GENERATED = ("*_pb2.py", "*_pb2_grpc.py")
NAMED_TUPLE = {"_asdict", "_field_defaults", "_fields", "_make", "_replace"}  # public despite the underscore
PATCHERS = {"setattr", "delattr", "patch.object", "mock.patch.object"}


def source_files() -> list[Path]:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    return sorted(
        path for path in files if "out" not in path.parts and not any(path.match(pattern) for pattern in GENERATED)
    )


OWN = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in source_files()}


def violations(source: str) -> list[str]:
    """Where a file patches a dependency or uses a private part of one, as "line: what"."""
    tree = ast.parse(source)
    foreign = set(_foreign_names(tree))
    own_private = set(_defined_private_names(tree))
    found = []
    for node in ast.walk(tree):
        found += [f"{node.lineno}: {what}" for what in _faults(node, foreign, own_private)]
    return found


def _faults(node: ast.AST, foreign: set[str], own_private: set[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (f"private import {one.name}" for one in node.names if _is_private_path(one.name))
    elif isinstance(node, ast.ImportFrom) and not node.level and node.module and _is_foreign(node.module):
        names = (f"{node.module}.{one.name}" for one in node.names)
        yield from (f"private import {name}" for name in names if _is_private_path(name))
    elif isinstance(node, ast.Attribute):
        yield from _attribute_faults(node, foreign, own_private)
    elif isinstance(node, ast.Call) and _patches(node, foreign):
        yield f"{ast.unparse(node.func)} on {ast.unparse(node.args[0])}"


def _patches(call: ast.Call, foreign: set[str]) -> bool:
    return ast.unparse(call.func) in PATCHERS and bool(call.args) and _root(call.args[0]) in foreign


def _attribute_faults(node: ast.Attribute, foreign: set[str], own_private: set[str]) -> Iterator[str]:
    text = ast.unparse(node)
    if text == "sys.modules":
        yield "use of sys.modules"
    if _is_private(node.attr) and node.attr not in own_private | NAMED_TUPLE and text != "os._exit":
        yield f"use of the private {text}"
    if isinstance(node.ctx, ast.Store | ast.Del) and _root(node) in foreign:
        yield f"assignment to {text}"


def _foreign_names(tree: ast.AST) -> Iterator[str]:
    """What the imports of third-party packages bind."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                if _is_foreign(one.name):
                    yield one.asname or one.name.partition(".")[0]
        elif isinstance(node, ast.ImportFrom) and not node.level and _is_foreign(node.module or ""):
            yield from (one.asname or one.name for one in node.names)


def _defined_private_names(tree: ast.AST) -> Iterator[str]:
    """Private functions, classes, parameters and attributes that the file itself defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _root(node) in ("self", "cls"):
            yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):  # __slots__
            yield node.value
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for one in node.names:
                if _is_own(node, one):
                    yield one.asname or one.name


def _is_own(node: ast.Import | ast.ImportFrom, one: ast.alias) -> bool:
    module = one.name if isinstance(node, ast.Import) else node.module or ""
    return bool(isinstance(node, ast.ImportFrom) and node.level) or module.partition(".")[0] in OWN


def _root(node: ast.AST) -> str | None:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _is_foreign(module: str) -> bool:
    top = module.partition(".")[0]
    return top not in OWN and top not in sys.stdlib_module_names


def _is_private_path(path: str) -> bool:
    return _is_foreign(path) and any(_is_private(part) for part in path.split("."))


def _is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def test_no_dependency_is_patched_or_used_through_private_api() -> None:
    found = {str(path.relative_to(ROOT)): violations(path.read_text(encoding="utf-8")) for path in source_files()}
    assert {file: faults for file, faults in found.items() if faults} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import torch._dynamo",
        "from torch import _C",
        "from ts._internal.codec import read",
        "import torch\ntorch._dynamo.reset()",
        "import torch\ntorch.nn.Linear.forward = None",
        "from uvicorn import Server\nServer.run = print",
        "from uvicorn import Server\nsetattr(Server, 'run', print)",
        "import torch\ndel torch.nn.Linear",
        "import sys\nsys.modules['ts'].run = print",
        "def close(client):\n    client._pool.close()",
        "from uvicorn import Server\nclass Mine(Server):\n    def stop(self):\n        self._stop()",
    ],
)
def test_a_planted_violation_is_found(source: str) -> None:
    assert violations(source)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.set_num_threads(1)",
        "from collections import namedtuple\nPoint = namedtuple('Point', 'x y')\nPoint._make([1, 2])",
        "class Mine:\n    def __init__(self):\n        self._held = 1\n    def same(self, other):\n"
        "        return self._held == other._held",
    ],
)
def test_public_parts_and_own_private_ones_are_allowed(source: str) -> None:
    assert violations(source) == []
