"""A recorded answer computed once more from its registered artifact, on what it read, as far as that is still there."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from config import params
from data.times import from_iso
from experiments.lineage import ancestry, offline_features, readings, served_log
from experiments.lineage.served_log import LineageError
from features.trends import TrendSnapshot
from features.vocabulary import Vocabulary
from serving.deployment import registry
from serving.edge import static, wire
from serving.edge.answer import Answer, seal
from serving.edge.listing import Listing
from serving.worker.recommender import Recommender
from serving.worker.request import MAX_K, Request
from serving.worker.users import User
from training.threads import one_thread

NOT_COMPUTED = "none"  # what a line says as `cache` where the edge answered by itself


@dataclass(frozen=True)
class Recomputed:
    """Attributes:
    read_from: part of what was read -> where it was found.
    differs: parts that are not what the answer read.
    """

    answer: Answer
    read_from: dict[str, str]
    differs: list[str]


@dataclass(frozen=True)
class Found:
    """A `serving.worker.users.UserLookup` of one person and one moment's trends."""

    person: User
    snapshot: TrendSnapshot | None

    def find_users(self, requests: Sequence[Request], repeats: str) -> list[User]:
        return [self.person] * len(requests)

    def find_trends(self, vocabulary: Vocabulary, as_of_us: int, newer_than_us: int) -> TrendSnapshot | None:
        return self.snapshot


def recompute(
    line: Mapping[str, Any], folder: Path, secret: bytes | None, user: str | None, chosen: params.Params
) -> Recomputed:
    """The answer that the artifact gives now.

    Args:
        line: of the served log in `folder`.
        user: who is thought to have asked; None looks through the data set.

    Raises:
        LineageError: something that it takes is not here; the text names what, and where it was looked for.
        RegistryError: the artifact is gone, corrupt, or not the one that was registered.
    """
    if line["rung"] == "cached":
        raise LineageError(served_log.given_before(line, folder))
    with tempfile.TemporaryDirectory(prefix="tidegate-") as scratch, one_thread():
        recommender = that_answered(line, chosen.dataset, Path(scratch))
        trends, snapshot = offline_features.find(line, recommender, chosen)
        if line.get("cache") == NOT_COMPUTED:
            recommender.lookup = Found(User(), snapshot)
            listed = _list_of_the_edge(line, folder, recommender)
            return Recomputed(listed, {"list": "the artifact", "trends": trends}, [])
        body, again = _request(line, folder, recommender, secret, user, chosen)
        recommender.lookup = Found(again.person if again else User(), snapshot)
        fields = _answered(recommender, body, line)
    read_from = {"history": again.source if again else "the request", "trends": trends}
    differs = readings.changed(line, fields["inputs"], secret, tuple(fields["inputs"]))
    if line.get("basis") == wire.WITHHELD:
        fields["reason"] = line["reason"]  # the edge's word, that the worker knows nothing of
    return Recomputed(seal(fields), read_from, differs)


def that_answered(line: Mapping[str, Any], dataset: str, scratch: Path) -> Recommender:
    """The registered version that a line states.

    Args:
        dataset: whose model it is where the line does not say.
        scratch: an empty folder, for the artifact.

    Raises:
        LineageError, RegistryError: it is not to be had, or is another than the line states.
    """
    name = line.get("dataset") or dataset
    version = ancestry.version_of(name, line["model_version"])
    recommender = Recommender.load(registry.download(name, version.version, scratch), line["model_version"])
    if line["dataset_version"] != recommender.common_fields["dataset_version"]:
        other = f"the answer rests on data set version {line['dataset_version']}"
        raise LineageError(f"{other}; version {version.version} of {ancestry.registry_place()} does not")
    return recommender


def _answered(recommender: Recommender, body: dict[str, Any], line: Mapping[str, Any]) -> dict[str, Any]:
    (fields,) = recommender.recommend([body], now_us=from_iso(line["time"]))
    if isinstance(fields, Exception):
        raise LineageError(f"the artifact refuses the request today: {fields}")
    return fields


def _request(
    line: Mapping[str, Any], folder: Path, recommender: Recommender, secret: bytes | None, user: str | None,
    chosen: params.Params,
) -> tuple[dict[str, Any], readings.Again | None]:  # fmt: skip
    """What the worker was told, and whose stored history it read."""
    body = {"k": line["k"], **served_log.unlogged(line, folder), "time": line["time"]}
    if line.get("basis") != wire.STORED or "history" in body:  # or where the edge stated it for the store
        return body if line.get("basis") == wire.NOBODY else {"history": [], **body}, None
    found = readings.owner(line, secret, user)
    if found is None:
        again = readings.nothing(line, secret)
        if again is None:
            raise LineageError(f"whose history was read is not known: {readings.why_nobody(secret, user)}")
        return {"user_id": line["user"], **body}, again
    repeats = recommender.artifact.config["repeats"]
    again = readings.best(line, found, repeats, secret, chosen, body.get("context") or {})
    if again is None:
        raise LineageError("the user's history is not here: neither out/data/split (`dvc pull`) nor an online store")
    return {"user_id": found, **body}, again


def _list_of_the_edge(line: Mapping[str, Any], folder: Path, recommender: Recommender) -> Answer:
    """A list that the edge gave by itself: the static one of the artifact, or TorchServe's popular one of a moment."""
    told = served_log.unlogged(line, folder)
    seen = [event["item_id"] for event in told.get("history") or []]
    unwanted = {*(told.get("exclude") or []), *seen}
    if line["rung"] == "static":
        assert recommender.folder is not None  # where it was downloaded to
        listing = replace(static.popular(recommender.folder), time=line["time"], model_version=line["model_version"])
    else:
        listing = Listing.of(_answered(recommender, {"history": [], "k": MAX_K}, line))
    return seal(listing.fields(line["rung"], line["reason"], line["k"], unwanted))
