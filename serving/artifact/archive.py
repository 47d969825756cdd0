"""Build and read a .mar, the archive that TorchServe loads: an artifact folder and the worker code.

A .mar is a zip with MAR-INF/MANIFEST.json. The same artifact and code give the same bytes. The worker code is every module
of this project that `serving.worker.handler` imports, found by reading the sources.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import shutil
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from pathlib import Path

from config.command import UserError
from config.paths import ROOT
from data import files
from training.models.artifact import MANIFEST, ArtifactError, digest_of, verify

ARTIFACT_FOLDER = "artifact"  # inside the archive, as serving.worker.handler reads it
ENTRY_MODULE = "tidegate_handler"
INNER_MANIFEST = "MAR-INF/MANIFEST.json"
UNREGISTERED = "0.0"  # version of an archive that no registry knows
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold

ENTRY_SOURCE = '''\
"""Entry point of a Tidegate archive."""

import sys
from pathlib import Path

# First, so that no other `data` or `serving` on this machine can stand in for what was packaged.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from serving.worker.handler import Handler  # noqa: E402


class TidegateHandler(Handler):
    """TorchServe wants one class, defined here."""
'''

WORKER_ENTRY = "serving.worker.handler"
PLUGINS = "training/models"  # loaded by name at run time, so no import statement names them
PROJECT_PACKAGES = ("config", "data", "features", "serving", "training")
# What the `serving` extra of pyproject.toml installs for our code. `ts` is the server's own package. A contract in
# pyproject.toml forbids training libraries inside functions, too.
AVAILABLE = frozenset({"faiss", "numpy", "orjson", "pydantic", "redis", "safetensors", "torch", "ts"})


class PackageError(UserError):
    """An archive cannot be built or read."""


class WorkerCodeError(UserError):
    """A module of the worker imports what the worker cannot load."""


@dataclass(frozen=True)
class ModelArchive:
    """A version of a model as an archive, by the archive's manifest."""

    name: str  # of the model: the dataset
    version: str  # as TorchServe names it
    artifact: str  # digest of the artifact's manifest
    content: str  # hash over all entries but the manifest: code and artifact, whatever the version
    path: Path

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @cached_property
    def golden_requests(self) -> list[dict]:
        """Requests, and the answers that were recorded at export."""
        with zipfile.ZipFile(self.path) as mar:
            return [json.loads(line) for line in mar.read(f"{ARTIFACT_FOLDER}/golden.jsonl").splitlines()]


def build_archive(
    artifact: Path, target: Path, name: str, version: str = UNREGISTERED, root: Path = ROOT
) -> ModelArchive:
    """Write an artifact folder and the worker code of `root` to the archive `target`, atomically.

    Raises:
        PackageError: the artifact is corrupt.
        WorkerCodeError: the code imports what the worker cannot load.
    """
    manifest, entries = _read_entries(artifact, root)
    built = ModelArchive(name, version, digest_of(manifest), _hash_entries(entries), target)
    with (
        files.replacing(target, durable=False) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive,  # weights do not compress
    ):
        _write_entry(archive, INNER_MANIFEST, _inner_manifest(built))
        for entry, source in entries:
            _write_entry(archive, entry, source)
    return built


def content_hash(artifact: Path, root: Path = ROOT) -> str:
    """The `content` that `build_archive` would state, without building it; raises the same errors."""
    return _hash_entries(_read_entries(artifact, root)[1])


def read_archive(path: Path) -> ModelArchive:
    """An archive of a model store. Raises PackageError if it is not a Tidegate archive."""
    try:
        with zipfile.ZipFile(path) as mar:
            manifest = json.loads(mar.read(INNER_MANIFEST))
        model, hashes = manifest["model"], manifest["tidegate"]
        return ModelArchive(model["modelName"], model["modelVersion"], hashes["artifact"], hashes["content"], path)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise PackageError(f"{path} is not a Tidegate archive: {error}") from None


def worker_modules(root: Path, entry: str = WORKER_ENTRY) -> dict[str, Path]:
    """Module name -> source file of every module of this project that the worker loads, with the packages' __init__.

    Raises:
        WorkerCodeError: names the module, the import and why it is refused.
    """
    modules: dict[str, Path] = {}
    queue = [entry, *(f"training.models.{path.stem}" for path in sorted((root / PLUGINS).glob("[a-z]*.py")))]
    while queue:
        module = queue.pop()
        base = root.joinpath(*module.split("."))
        path = next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)
        if module in modules or path is None:
            continue
        modules[module] = path
        if "." in module:
            queue.append(module.rpartition(".")[0])
        for name, at_load in _imports(ast.parse(path.read_text(encoding="utf-8"), str(path)), at_load=True):
            _check_import(module, name.partition(".")[0], at_load)
            if name.partition(".")[0] in PROJECT_PACKAGES:
                # `a.b.c` may be a module, or a name in the module `a.b`; whichever has a source file is taken.
                queue += [name, name.rpartition(".")[0]]
    return dict(sorted(modules.items()))


def _check_import(module: str, package: str, at_load: bool) -> None:
    known = package in PROJECT_PACKAGES or package in AVAILABLE or package in sys.stdlib_module_names
    if at_load and not known:
        raise WorkerCodeError(
            f"{module} imports {package}, which the serving extra of pyproject.toml does not name; "
            "import it inside the function that needs it, or do without it"
        )


def _imports(node: ast.AST, at_load: bool) -> Iterator[tuple[str, bool]]:
    """Each dotted name that the code below a node imports, and whether it does so when the module is loaded."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, at_load) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):  # never a relative one in this project
            yield from ((f"{child.module}.{alias.name}", at_load) for alias in child.names)
        elif not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            in_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(child, at_load and not in_function)


def _read_entries(artifact: Path, root: Path) -> tuple[dict, list[tuple[str, Path | bytes]]]:
    """The artifact's manifest, and every entry's name in the archive and source, sorted."""
    try:
        manifest = verify(artifact)
    except ArtifactError as error:
        raise PackageError(str(error)) from None
    entries: list[tuple[str, Path | bytes]] = [(f"{ENTRY_MODULE}.py", ENTRY_SOURCE.encode())]
    entries += [(path.relative_to(root).as_posix(), path) for path in worker_modules(root).values()]
    entries += [(f"{ARTIFACT_FOLDER}/{file}", artifact / file) for file in (MANIFEST, *manifest["files"])]
    return manifest, sorted(entries, key=itemgetter(0))


def _inner_manifest(archive: ModelArchive) -> bytes:
    manifest = {
        "createdOn": "01/01/1980 00:00:00",  # TorchServe requires a date; the real one would change every archive
        "archiverVersion": "0.12.0",
        "runtime": "python",
        "model": {"modelName": archive.name, "modelVersion": archive.version, "handler": f"{ENTRY_MODULE}.py"},
        "tidegate": {"artifact": archive.artifact, "content": archive.content},
    }
    return json.dumps(manifest, indent=1, sort_keys=True).encode()


def _hash_entries(entries: list[tuple[str, Path | bytes]]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for entry, source in entries:
        digest.update(f"{entry}\0".encode())
        with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as stream:
            digest.update(hashlib.file_digest(stream, "blake2b").digest())
    return digest.hexdigest()


def _write_entry(archive: zipfile.ZipFile, entry: str, source: Path | bytes) -> None:
    info = zipfile.ZipInfo(entry, EPOCH)
    info.external_attr = 0o644 << 16
    info.create_system = 3  # Unix, whatever builds it
    if isinstance(source, bytes):
        archive.writestr(info, source)
        return
    info.file_size = source.stat().st_size
    with source.open("rb") as stream, archive.open(info, "w") as sink:
        shutil.copyfileobj(stream, sink, 1 << 20)
