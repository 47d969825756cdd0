"""A registered version as an archive in the model store."""

from __future__ import annotations

import json
import re
from pathlib import Path

from serving import package
from serving.deployment import registry
from serving.deployment.registry import Version
from serving.package import Build
from serving.settings import ServerSettings
from serving.torchserve.client import LoadedVersion, TorchServe


def build(version: Version, client: TorchServe, settings: ServerSettings, scratch: Path) -> Build:
    """Write the archive into the model store; the same code, artifact and batching find their build again.

    Args:
        scratch: an existing folder for the artifact's download.

    Raises:
        RegistryError: the artifact is gone or corrupt.
        WorkerCodeError: the worker code cannot travel.
    """
    into = scratch / version.version
    into.mkdir()
    artifact = registry.download(version.dataset, version.version, into)
    content = package.content_of(artifact)
    number = _build_number(version, content, client.describe(version.dataset), settings)
    name = f"{version.version}.{number}"
    archive = settings.model_store / f"{version.dataset}-{name}.mar"
    package.build(artifact, archive, version.dataset, name)
    golden = [json.loads(line) for line in (artifact / "golden.jsonl").read_text().splitlines()]
    return Build(version.dataset, name, archive, golden)


def _build_number(version: Version, content: str, live: dict[str, LoadedVersion], settings: ServerSettings) -> int:
    built = archives(version.dataset, settings)
    taken = sorted(int(name.partition(".")[2]) for name in built if name.partition(".")[0] == version.version)
    for number in taken:
        name = f"{version.version}.{number}"
        if _content(built[name]) == content and (name not in live or _as_set(live[name], settings)):
            return number
    return taken[-1] + 1 if taken else 0


def _content(archive: Path) -> str | None:
    try:
        return package.read_identity(archive).content
    except package.PackageError:
        return None


def _as_set(live: LoadedVersion, settings: ServerSettings) -> bool:
    return (live.batch_size, live.batch_delay_ms) == (settings.batch_size, settings.batch_delay_ms)


def archives(dataset: str, settings: ServerSettings) -> dict[str, Path]:
    """Version -> archive in the model store, of this data set alone ("demo" is not "demo-2")."""
    form = re.compile(rf"{re.escape(dataset)}-(\d+\.\d+)\.mar")
    found = ((form.fullmatch(path.name), path) for path in settings.model_store.glob("*.mar"))
    return {match.group(1): path for match, path in found if match}
