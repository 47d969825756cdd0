"""Load the artifact folder, which is all that serving gets from training. Nothing in it is pickled."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors

from features.trends import TrendSnapshot
from features.vocabulary import Vocabulary
from training.models.base import Model, Sizes, build

MANIFEST = "manifest.json"
FORMAT = 2  # raised when older artifacts can no longer be loaded


class ArtifactError(ValueError):
    """An artifact folder is incomplete, changed since export, or of another format."""


@dataclass
class Artifact:
    """A loaded artifact."""

    model: Model
    vocabulary: Vocabulary
    titles: list[str | None]
    trends: TrendSnapshot
    config: dict  # model params, sizes, encoders, repeats rule, numeric ids, refresh
    manifest: dict  # provenance, and the hash of each file

    @property
    def digest(self) -> str:
        """One hash for the whole artifact."""
        return digest_of(self.manifest)


def digest_of(manifest: dict) -> str:
    """Hash of a manifest with all its entries, file hashes included."""
    return hashlib.blake2b(json.dumps(manifest, sort_keys=True).encode(), digest_size=16).hexdigest()


def hash_file(path: Path) -> str:
    """BLAKE2b of a file's bytes, 16 bytes as hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def verify(folder: Path) -> dict:
    """Check the hash of every file, and return the manifest.

    Raises:
        ArtifactError: names the file that is missing or differs.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder}: {MANIFEST} cannot be read: {error}") from None
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise ArtifactError(f"{folder}: {name} is missing")
        if hash_file(path) != expected:
            raise ArtifactError(f"{folder}: {name} is not the file that was exported (its hash differs)")
    return manifest


def load(folder: Path | str) -> Artifact:
    """Verify and load an artifact.

    Raises:
        ArtifactError: see `verify`; also when the weights do not fit the config, or another version wrote the artifact.
    """
    folder = Path(folder)
    manifest = verify(folder)
    if manifest.get("format") != FORMAT:
        found = f"has format {manifest.get('format')}; this version reads format {FORMAT}"
        raise ArtifactError(f"{folder} {found}: train and export the model again")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        model = build(config["model"], Sizes(**config["sizes"]))
        model.load_state_dict(load_tensors(folder / "weights.safetensors"))
        trends = load_file(folder / "trends.safetensors")["trends"].astype(np.float32)
        snapshot = TrendSnapshot(trends, config["sizes"]["channels"], config["trends_time_us"])
        vocabulary = Vocabulary.load(folder / "vocabulary.json")
        titles = json.loads((folder / "items.json").read_text(encoding="utf-8"))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise ArtifactError(f"{folder} cannot be loaded: {' '.join(str(error).split())}") from error
    return Artifact(model.eval(), vocabulary, titles, snapshot, config, manifest)
