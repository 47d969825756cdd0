"""Which of our modules travel to the worker: what `serving.worker.handler` imports, found by reading the sources."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from config.command import UserError

ENTRY = "serving.worker.handler"
PLUGINS = "training/models"  # modules that are found by name while running, so no import statement leads to them
OURS = ("config", "data", "features", "serving", "training")
# All that the `serving` extra of pyproject.toml gives our code. `ts` is the server's own package.
AVAILABLE = frozenset({"faiss", "numpy", "orjson", "pydantic", "redis", "safetensors", "torch", "ts"})
# Heavy, or of the training side: not even inside a function, where one call would load them.
FORBIDDEN = frozenset(
    {"dvc", "feast", "lightning", "mlflow", "optuna", "pandas", "pandera", "pyarrow", "pytorch_lightning"}
)


class WorkerCodeError(UserError):
    """A module that would travel to the worker imports what the worker must not, or cannot, load."""


@dataclass(frozen=True)
class Import:
    """One import statement's target."""

    name: str  # dotted, as far as the statement tells: `from a.b import c` may mean the module a.b.c
    at_load: bool  # False inside a function: nothing happens until it is called


def worker_modules(root: Path, entry: str = ENTRY) -> dict[str, Path]:
    """Module name -> source file of everything of ours that the worker loads, packages' __init__ included.

    Args:
        root: the folder that holds data/, features/, training/ and serving/.

    Raises:
        WorkerCodeError: names the module, the import and why it is refused.
    """
    found: dict[str, Path] = {}
    waiting = [entry, *(f"training.models.{path.stem}" for path in sorted((root / PLUGINS).glob("[a-z]*.py")))]
    while waiting:
        module = waiting.pop()
        path = _source(root, module)
        if module in found or path is None:
            continue
        found[module] = path
        if "." in module:
            waiting.append(module.rpartition(".")[0])
        for statement in _imports(module, path):
            _check(module, statement)
            waiting.extend(_candidates(statement.name))
    if entry not in found:
        raise WorkerCodeError(f"{root} holds no module {entry}")
    return dict(sorted(found.items()))


def _source(root: Path, module: str) -> Path | None:
    base = root.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _candidates(name: str) -> list[str]:
    """`a.b.c` may be a module, or a name in the module `a.b`; whichever has a source is taken."""
    return [name, name.rpartition(".")[0]] if name.partition(".")[0] in OURS else []


def _check(module: str, statement: Import) -> None:
    top = statement.name.partition(".")[0]
    if top in FORBIDDEN:
        raise WorkerCodeError(f"{module} imports {top}, which the serving worker must never load")
    if top in OURS or top in AVAILABLE or top in sys.stdlib_module_names:
        return
    if statement.at_load:
        raise WorkerCodeError(
            f"{module} imports {top}, which the serving extra of pyproject.toml does not name; "
            "import it inside the function that fits, or do without"
        )


def _imports(module: str, path: Path) -> Iterator[Import]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    yield from _walk(ast.parse(path.read_text(), str(path)), package, at_load=True)


def _walk(node: ast.AST, package: str, at_load: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, at_load) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = _base(child, package)
            yield from (Import(f"{base}.{alias.name}", at_load) for alias in child.names)
        elif not _for_type_checkers(child):
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _walk(child, package, at_load and not inside)


def _base(statement: ast.ImportFrom, package: str) -> str:
    if not statement.level:
        return statement.module or ""
    parents = package.split(".")[: len(package.split(".")) - (statement.level - 1)]
    return ".".join([*parents, *([statement.module] if statement.module else [])])


def _for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
