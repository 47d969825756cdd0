"""The answers while TorchServe gives none: the user's last answer, else the popular list, else the static list.

The popular list is TorchServe's, refreshed while it answers. The static list is read from an exported artifact at each
start without loading its model, so that there is something to answer with when nothing else works.
"""

from __future__ import annotations

import json
import logging
import re
import time
import zipfile
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from safetensors.numpy import load as load_arrays

from config import files
from data.times import to_iso
from features.vocabulary import PAD
from serving.deployment.rollout_stage import Phase, RolloutStage
from serving.edge.answer import Answer, build_answer, first_items, parse_answer
from serving.worker.request import MAX_K, Request

log = logging.getLogger(__name__)

CACHED, POPULAR, STATIC = "cached", "popular", "static"
ARTIFACT_FOLDER = "artifact"  # where `serving.artifact.archive` puts the artifact in an archive
# A month says more than all time.
PREFERRED_TRENDS = ("window_30d", "half_life_30d", "window_7d", "half_life_7d", "all")


@dataclass(frozen=True)
class PopularList:
    """The same items for everybody, best first, and where they come from."""

    items: list[dict[str, Any]]  # as answers hold them: item_id, score, title
    time: str  # when the list was made, ISO 8601
    trends_time: str | None
    model_version: str
    dataset_version: str
    numeric_ids: list[str]  # those of user_id and item_id that are numbers; see `data.ids`

    @classmethod
    def from_answer(cls, fields: dict[str, Any]) -> PopularList:
        """The list in an answer's fields."""
        return cls(**{name: fields[name] for name in cls.__dataclass_fields__})

    def answer(self, source: str, reason: str, k: int, excluded: Collection[str]) -> Answer:
        """An answer with the first k items that are not excluded."""
        items = first_items(self.items, excluded, k)
        if self.items and not items:
            reason = f"{reason}; the user took or the request excludes each of its {len(self.items)} items"
        fields = {**vars(self), "items": items}
        return build_answer(fields | {"source": source, "reason": reason, "feature_time": None, "segments": []})

    def save(self, path: Path) -> None:
        """Write the list to a file, whole or not at all; each start writes it again. Raises OSError."""
        files.write_bytes(path, orjson.dumps(asdict(self)), durable=False)

    @classmethod
    def load(cls, path: Path) -> PopularList | None:
        """The list in a file; None where there is none that can be read."""
        try:
            return cls(**orjson.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None


EMPTY = PopularList([], "1970-01-01T00:00:00Z", None, "", "", [])  # before anything was ever exported


@dataclass
class FallbackChain:
    """The static list, and TorchServe's last popular list: None before the first.

    `may_answer` says whether answers of a version may be given; of one that was rolled back they may not.
    """

    static: PopularList
    popular: PopularList | None = None
    may_answer: Callable[[str], bool] = lambda version: True

    @property
    def numeric_ids(self) -> list[str]:
        """Of the dataset that is served."""
        return (self.popular or self.static).numeric_ids

    def answer(
        self, request: Request, failure: str, refusal: str | None = None, last_answer: Answer | None = None
    ) -> Answer:
        """The best answer without TorchServe.

        Args:
            failure: why TorchServe gave no answer.
            refusal: why the answer may not be personal; None: it may.
            last_answer: of the same user, if it is cached and the answer may be personal.
        """
        reason = failure if refusal is None else f"{refusal}; {failure}"
        excluded = set(request.exclude)
        if refusal is None:
            excluded |= {item for item, _ in request.history}  # a fallback repeats no item that the user knows either
        if last_answer is not None:
            fields = parse_answer(last_answer)
            if items := first_items(fields["items"], excluded, request.k):
                reason = f"{reason}; this is the user's answer of {fields['time']}"
                return build_answer(fields | {"items": items, "source": CACHED, "reason": reason})
        if request.filters:  # better nothing than what the filter is there to keep away
            reason = f"{reason}; filters cannot be applied without TorchServe, so nothing is listed"
            return EMPTY.answer(STATIC, reason, request.k, excluded)
        if self.popular is not None and self.may_answer(self.popular.model_version):
            reason = f"{reason}; this is TorchServe's popular list of {self.popular.time}"
            return self.popular.answer(POPULAR, reason, request.k, excluded)
        return self.static_answer(request, reason, excluded)

    def static_answer(self, request: Request, reason: str, excluded: Collection[str]) -> Answer:
        """The static list, which needs nothing that could fail."""
        if self.static.items:
            version, exported = self.static.model_version, self.static.trends_time
            origin = f"this is the list of version {version}, exported as of {exported}"
        else:
            origin = "no model was ever exported here, so there is nothing to list"
        return self.static.answer(STATIC, f"{reason}; {origin}", request.k, excluded)


def update_static_list(
    path: Path, artifact: Path | None, model_store: Path, dataset: str, stage: RolloutStage | None = None
) -> PopularList:
    """Write the artifact's popular list to `path`; the list that is there afterwards.

    Args:
        artifact: a folder or a .mar; None takes the archive in the model store of the version that serves according
            to the stage, or the newest one where there is no stage.
    """
    source = artifact or (serving_archive(model_store, stage) if stage else newest_archive(model_store, dataset))
    if source is not None:
        try:
            popular = artifact_list(source)
            popular.save(path)
            return popular
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            log.error("no static list could be made from %s: %s", source, error)
    return PopularList.load(path) or EMPTY


def serving_archive(model_store: Path, stage: RolloutStage) -> Path | None:
    """The archive of the version that serves: never one that was rolled back, or that is on trial next to another."""
    version = stage.version if stage.phase is Phase.SERVES else stage.previous or stage.version
    path = model_store / f"{stage.dataset}-{version}.mar"
    return path if path.exists() else None


def newest_archive(model_store: Path, dataset: str) -> Path | None:
    """The archive of the dataset's newest version, as `serving.deployment.builds` names them."""
    pattern = re.compile(rf"{re.escape(dataset)}-(\d+)\.(\d+)\.mar")
    matches = ((pattern.fullmatch(path.name), path) for path in model_store.glob("*.mar"))
    versions = {(int(match[1]), int(match[2])): path for match, path in matches if match}
    return versions[max(versions)] if versions else None


def artifact_list(source: Path) -> PopularList:
    """The most popular items of an artifact as of its export, at most as many as a request may ask for.

    Raises:
        ValueError: a file is not the one that was exported.
        OSError, KeyError, BadZipFile: it is no artifact.
    """
    folder: Path | zipfile.Path = source
    version = "unregistered"
    if not source.is_dir():
        folder = zipfile.Path(source, f"{ARTIFACT_FOLDER}/")
        about = zipfile.Path(source, "MAR-INF/MANIFEST.json").read_text(encoding="utf-8")
        version = json.loads(about)["model"]["modelVersion"]
    manifest = json.loads((folder / "manifest.json").read_bytes())

    def read_verified(name: str) -> bytes:
        content = (folder / name).read_bytes()
        if blake2b(content, digest_size=16).hexdigest() != manifest["files"][name]:
            raise ValueError(f"{name} is not the file that was exported (its hash differs)")
        return content

    config, ids, titles = (json.loads(read_verified(name)) for name in ("config.json", "vocabulary.json", "items.json"))
    trends = load_arrays(read_verified("trends.safetensors"))["trends"]
    channels = config["sizes"]["channels"]
    channel = next((name for name in PREFERRED_TRENDS if name in channels), channels[0])
    counts = trends[PAD + 1 :, channels.index(channel)]
    best = np.argsort(-counts, kind="stable")[:MAX_K]
    items = [{"item_id": ids[row], "score": float(counts[row]), "title": titles[row]} for row in best]
    now, trends_time = to_iso(time.time_ns() // 1000), to_iso(config["trends_time_us"])
    return PopularList(items, now, trends_time, version, manifest["dataset_hash"], config["numeric_ids"])
