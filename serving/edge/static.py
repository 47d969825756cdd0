"""The static list: an exported artifact's most popular items, read without loading its model.

Written at each start, so that there is something to answer with though nothing else works; kept from the start before
where no artifact can be read.
"""

from __future__ import annotations

import json
import logging
import re
import time
import zipfile
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import numpy as np
from safetensors.numpy import load as load_arrays

from data.times import to_iso
from features.vocabulary import PAD
from serving.edge.listing import EMPTY, Listing
from serving.worker.request import MAX_K

log = logging.getLogger(__name__)

INSIDE = "artifact"  # as `serving.package` puts it into an archive
PREFERRED = ("window_30d", "half_life_30d", "window_7d", "half_life_7d", "all")  # a month says more than all of time


def write(path: Path, artifact: Path | None, model_store: Path, dataset: str) -> Listing:
    """Have the static list at `path` be that of the artifact; what is there then.

    Args:
        artifact: a folder or a .mar; None takes the newest archive of the data set in the model store.
    """
    source = artifact or newest(model_store, dataset)
    if source is not None:
        try:
            listing = popular(source)
            listing.save(path)
            return listing
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            log.error("no static list could be made of %s: %s", source, error)
    return Listing.load(path) or EMPTY


def newest(model_store: Path, dataset: str) -> Path | None:
    """The archive of the data set's newest version, as `serving.deployment.load_version` names them."""
    form = re.compile(rf"{re.escape(dataset)}-(\d+)\.(\d+)\.mar")
    found = [(match, path) for path in model_store.glob("*.mar") if (match := form.fullmatch(path.name))]
    return max(found, key=lambda pair: (int(pair[0][1]), int(pair[0][2])))[1] if found else None


def popular(source: Path) -> Listing:
    """The most popular items of an artifact as of its export, at most as many as a request may ask for.

    Raises:
        ValueError: a file is not the one that was exported.
        OSError, KeyError, BadZipFile: it is no artifact.
    """
    if source.is_dir():
        return _popular(lambda name: (source / name).read_bytes(), "unregistered")
    with zipfile.ZipFile(source) as archive:
        version = json.loads(archive.read("MAR-INF/MANIFEST.json"))["model"]["modelVersion"]
        return _popular(lambda name: archive.read(f"{INSIDE}/{name}"), version)


def _popular(read: Callable[[str], bytes], version: str) -> Listing:
    manifest = json.loads(read("manifest.json"))

    def checked(name: str) -> bytes:
        content = read(name)
        if blake2b(content, digest_size=16).hexdigest() != manifest["files"][name]:
            raise ValueError(f"{name} is not the file that was exported (its hash differs)")
        return content

    config, ids, titles = (json.loads(checked(name)) for name in ("config.json", "vocabulary.json", "items.json"))
    trends = load_arrays(checked("trends.safetensors"))["trends"]
    channels = config["sizes"]["channels"]
    channel = next((name for name in PREFERRED if name in channels), channels[0])
    counts = trends[PAD + 1 :, channels.index(channel)]
    best = np.argsort(-counts, kind="stable")[:MAX_K]
    items = [{"item_id": ids[row], "score": float(counts[row]), "title": titles[row]} for row in best]
    made, trends_time = to_iso(time.time_ns() // 1000), to_iso(config["trends_time_us"])
    return Listing(items, made, trends_time, version, manifest["dataset_hash"])
