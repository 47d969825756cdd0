"""Build, read and check a .mar, the archive that TorchServe loads: an artifact folder and the worker code.

A .mar is a zip with MAR-INF/MANIFEST.json and, if it is signed, MAR-INF/SIGNATURE.json. The same artifact, code and signature
give the same bytes, so an archive is checked by building it again from what it holds. The worker code is every module of this
project that `serving.worker.handler` imports, found by reading the sources.
"""

from __future__ import annotations

import ast
import filecmp
import hashlib
import io
import json
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from operator import attrgetter
from pathlib import Path
from typing import IO, NamedTuple

from config import files
from config.command import UserError
from config.paths import ROOT
from training.models.artifact import MANIFEST, ArtifactError, digest_of, verify

ARTIFACT_FOLDER = "artifact"  # inside the archive, as serving.worker.handler reads it
ENTRY_MODULE = "tidegate_handler"
INNER_MANIFEST, SIGNATURE_ENTRY = "MAR-INF/MANIFEST.json", "MAR-INF/SIGNATURE.json"
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
    content: str  # hash over all entries outside of MAR-INF: code and artifact, whatever the version
    path: Path

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @cached_property
    def golden_requests(self) -> list[dict]:
        """Requests, and the answers that were recorded at export."""
        with zipfile.ZipFile(self.path) as mar:
            return [json.loads(line) for line in mar.read(f"{ARTIFACT_FOLDER}/golden.jsonl").splitlines()]

    @property
    def signature(self) -> str | None:
        """What `sign` of `build_archive` returned; None if the archive is not signed."""
        with zipfile.ZipFile(self.path) as mar:
            return mar.read(SIGNATURE_ENTRY).decode(errors="replace") if SIGNATURE_ENTRY in mar.namelist() else None


class _Entry(NamedTuple):
    """A file of an archive."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def build_archive(
    artifact: Path,
    target: Path,
    name: str,
    version: str = UNREGISTERED,
    root: Path = ROOT,
    sign: Callable[[ModelArchive], str] | None = None,
) -> ModelArchive:
    """Write an artifact folder and the worker code of `root` to the archive `target`, atomically.

    `sign` returns the signature of the archive, which it gets without a file.

    Raises:
        PackageError: the artifact is corrupt.
        WorkerCodeError: the code imports what the worker cannot load.
    """
    manifest, entries = _read_entries(artifact, root)
    built = ModelArchive(name, version, digest_of(manifest), _hash_entries(entries), target)
    signature = sign(built) if sign else None
    with files.replacing(target, durable=False) as unfinished:
        _write_archive(unfinished, built, signature, entries)
    return built


def copy_archive(archive: ModelArchive, target: Path) -> None:
    """Copy an archive if every byte is what `build_archive` writes for its manifest's name, version and hashes.

    Raises:
        PackageError: a byte differs, or it holds another artifact or content than its manifest states.
    """
    changed = PackageError(f"{archive.path} was changed after it was built; copy it again from where it was built")
    try:
        with zipfile.ZipFile(archive.path) as mar:
            infos = [info for info in mar.infolist() if info.filename not in (INNER_MANIFEST, SIGNATURE_ENTRY)]
            if any(info.compress_type != zipfile.ZIP_STORED for info in mar.infolist()):
                raise changed
            entries = [_Entry(info.filename, info.file_size, partial(mar.open, info)) for info in infos]
            artifact = digest_of(json.loads(mar.read(f"{ARTIFACT_FOLDER}/{MANIFEST}")))
            if (artifact, _hash_entries(entries)) != (archive.artifact, archive.content):
                raise changed
            _write_archive(target, archive, archive.signature, entries)
    except (ValueError, KeyError, TypeError, RuntimeError, EOFError, zipfile.BadZipFile):
        raise changed from None
    if not filecmp.cmp(archive.path, target, shallow=False):
        raise changed


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


def _read_entries(artifact: Path, root: Path) -> tuple[dict, list[_Entry]]:
    """The artifact's manifest, and every entry outside of MAR-INF, sorted by name."""
    try:
        manifest = verify(artifact)
    except ArtifactError as error:
        raise PackageError(str(error)) from None
    entries = [_entry_of(f"{ENTRY_MODULE}.py", ENTRY_SOURCE.encode())]
    entries += [_entry_of(path.relative_to(root).as_posix(), path) for path in worker_modules(root).values()]
    entries += [_entry_of(f"{ARTIFACT_FOLDER}/{file}", artifact / file) for file in (MANIFEST, *manifest["files"])]
    return manifest, sorted(entries, key=attrgetter("name"))


def _entry_of(name: str, source: Path | bytes) -> _Entry:
    if isinstance(source, bytes):
        return _Entry(name, len(source), partial(io.BytesIO, source))
    return _Entry(name, source.stat().st_size, lambda: source.open("rb"))


def _inner_manifest(archive: ModelArchive) -> bytes:
    manifest = {
        "createdOn": "01/01/1980 00:00:00",  # TorchServe requires a date; the real one would change every archive
        "archiverVersion": "0.12.0",
        "runtime": "python",
        "model": {"modelName": archive.name, "modelVersion": archive.version, "handler": f"{ENTRY_MODULE}.py"},
        "tidegate": {"artifact": archive.artifact, "content": archive.content},
    }
    return json.dumps(manifest, indent=1, sort_keys=True).encode()


def _hash_entries(entries: Iterable[_Entry]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for entry in entries:
        digest.update(f"{entry.name}\0".encode())
        with entry.open() as stream:
            digest.update(hashlib.file_digest(stream, "blake2b").digest())  # type: ignore[arg-type]  # it only reads
    return digest.hexdigest()


def _write_archive(target: Path, archive: ModelArchive, signature: str | None, entries: list[_Entry]) -> None:
    head = [_entry_of(INNER_MANIFEST, _inner_manifest(archive))]
    if signature is not None:
        head.append(_entry_of(SIGNATURE_ENTRY, signature.encode()))
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as mar:  # weights do not compress
        for entry in [*head, *entries]:
            info = zipfile.ZipInfo(entry.name, EPOCH)
            info.external_attr = 0o644 << 16
            info.create_system = 3  # Unix, whatever builds it
            info.file_size = entry.size
            with entry.open() as stream, mar.open(info, "w") as sink:
                shutil.copyfileobj(stream, sink, 1 << 20)
