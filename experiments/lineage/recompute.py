"""Compute a served answer again from its registered artifact and what it read, and compare."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from config import params
from data.times import from_iso
from experiments.lineage import inputs, served_log, upstream
from experiments.lineage.inputs import UserReading
from experiments.lineage.report import ReportPart
from experiments.lineage.served_log import FROM_EDGE, NOT_COMPUTED, Line, LineageError
from features.trends import TrendSnapshot
from features.vocabulary import Vocabulary
from serving.deployment import registry
from serving.edge import request_log
from serving.edge.answer import FIELDS, Answer, build_answer, digest, parse_answer
from serving.edge.fallback import PopularList, artifact_list
from serving.worker import response
from serving.worker.recommender import Recommender
from serving.worker.request import MAX_K, Request
from serving.worker.users import User
from training.threads import one_thread

IDENTICAL, SAME_ITEMS, DIFFERENT = "identical bytes", "same items", "different"


@dataclass(frozen=True)
class Recomputed:
    """An answer computed again.

    Attributes:
        read_from: part of the input -> where it was found.
        differs: parts that are not what the answer read.
    """

    answer: Answer
    read_from: dict[str, str]
    differs: list[str]


@dataclass(frozen=True)
class FixedLookup:
    """A `serving.worker.users.UserLookup` that returns one user and one snapshot of the trends."""

    user: User
    snapshot: TrendSnapshot | None

    def find_users(self, requests: Sequence[Request], repeats: str) -> list[User]:
        return [self.user] * len(requests)

    def find_trends(self, vocabulary: Vocabulary, as_of_us: int, newer_than_us: int) -> TrendSnapshot | None:
        return self.snapshot


def recompute(
    line: Line, folder: Path, secret: bytes | None, user_id: str | None, settings: params.Params
) -> Recomputed:
    """The answer that the artifact gives now.

    Args:
        line: of the served log in `folder`.
        user_id: who is thought to have asked; None searches all users of the dataset.

    Raises:
        LineageError: something that is needed is missing; the text says what, and where it was searched.
        RegistryError: the artifact is missing, corrupt, or not the one that was registered.
    """
    if line["source"] == "cached":
        raise LineageError(served_log.why_repeated(line, folder))
    with tempfile.TemporaryDirectory(prefix="tidegate-") as scratch, one_thread():
        recommender = load_version(line, settings.dataset, Path(scratch))
        trends, snapshot = inputs.find_trends(line, recommender, settings)
        if line.get("cache") == NOT_COMPUTED:
            recommender.lookup = FixedLookup(User(), snapshot)
            answer = _answer_of_edge(line, folder, recommender)
            return Recomputed(answer, {"list": "the artifact", "trends": trends}, [])
        body, reading = _worker_request(line, folder, recommender, secret, user_id, settings)
        recommender.lookup = FixedLookup(reading.user if reading else User(), snapshot)
        fields = _recommend(recommender, body, line)
    read_from = {"history": reading.source if reading else "the request", "trends": trends}
    differs = inputs.changed_parts(line, fields["inputs"], secret, tuple(fields["inputs"]))
    if line.get("history_source") == request_log.WITHHELD:
        fields["reason"] = line["reason"]  # written by the edge: the worker does not know why the user is withheld
    return Recomputed(build_answer(fields), read_from, differs)


def load_version(line: Line, dataset: str, scratch: Path) -> Recommender:
    """Load the registered version that gave an answer.

    Args:
        dataset: its name if the line does not state it.
        scratch: an empty folder for the artifact.

    Raises:
        LineageError, RegistryError: it is missing, or differs from what the line states.
    """
    name = line.get("dataset") or dataset
    version = upstream.find_version(name, line["model_version"])
    recommender = Recommender.load(registry.download_artifact(version, scratch), line["model_version"])
    if line["dataset_version"] != recommender.common_fields["dataset_version"]:
        raise LineageError(
            f"the answer states dataset version {line['dataset_version']}, but version {version.version} of "
            f"{upstream.registry_place()} was fitted on another one"
        )
    return recommender


def _recommend(recommender: Recommender, body: dict[str, Any], line: Line) -> dict[str, Any]:
    (fields,) = recommender.recommend([body], now_us=from_iso(line["time"]))
    if isinstance(fields, Exception):
        raise LineageError(f"the artifact refuses the request now: {fields}")
    return fields


def _worker_request(
    line: Line, folder: Path, recommender: Recommender, secret: bytes | None, user_id: str | None,
    settings: params.Params,
) -> tuple[dict[str, Any], UserReading | None]:  # fmt: skip
    """The request that the worker got, and the stored history that it read."""
    body = {"k": line["k"], **served_log.unlogged_fields(line, folder), "time": line["time"]}
    # The edge may have sent the stored history itself.
    if line.get("history_source") != request_log.FROM_STORE or "history" in body:
        return body if line.get("history_source") == request_log.NO_HISTORY else {"history": [], **body}, None
    found_id = inputs.find_user(line, secret, user_id)
    if found_id is None:
        reading = inputs.empty_reading(line, secret)
        if reading is None:
            reason = inputs.why_user_unknown(secret, user_id)
            raise LineageError(f"the user whose history was read is unknown: {reason}")
        return {"user_id": line["user"], **body}, reading
    repeats = recommender.artifact.config["repeats"]
    reading = inputs.read_user(line, found_id, repeats, secret, settings, body.get("context") or {})
    if reading is None:
        raise LineageError(
            f"the user's history is missing: neither {inputs.EVENTS} (`dvc pull`) nor an online store is here"
        )
    return {"user_id": found_id, **body}, reading


def _answer_of_edge(line: Line, folder: Path, recommender: Recommender) -> Answer:
    """A list that the edge gave without a worker: the artifact's static list, or TorchServe's popular list of then."""
    request = served_log.unlogged_fields(line, folder)
    seen = [event["item_id"] for event in request.get("history") or []]
    excluded = {*(request.get("exclude") or []), *seen}
    if line["source"] == "static":
        assert recommender.folder is not None  # it was downloaded there
        listing = replace(artifact_list(recommender.folder), time=line["time"], model_version=line["model_version"])
    else:
        listing = PopularList.from_answer(_recommend(recommender, {"history": [], "k": MAX_K}, line))
    return listing.answer(line["source"], line["reason"], line["k"], excluded)


# --- replay: compare with what was served


def compare(line: Line, recomputed: Recomputed) -> ReportPart:
    """Compare an answer computed again with its line; `result` is IDENTICAL, SAME_ITEMS or DIFFERENT.

    On the processor class and libraries that answered, the bytes must be identical. Elsewhere the items must be the
    same, and only items whose scores are within 1e-5 may change places.
    """
    here, there = response.describe_processor(), line.get("computed_on")
    facts: dict[str, Any] = {"result": IDENTICAL, "digest": digest(recomputed.answer.body)}
    facts |= {"recorded digest": line.get("digest"), "computed on": there, "replayed on": here}
    if facts["digest"] == line.get("digest"):
        return ReportPart("replay", facts)
    difference = _difference(line, parse_answer(recomputed.answer))
    if here == there:
        note = f"{difference or 'its bytes differ'}, on the same processor class and libraries"
        return ReportPart("replay", facts | {"result": DIFFERENT}, note=note)
    if difference is not None:
        return ReportPart("replay", facts | {"result": DIFFERENT}, note=difference)
    return ReportPart("replay", facts | {"result": SAME_ITEMS, "scores": "within 1e-5"})


def _difference(line: Line, fields: dict[str, Any]) -> str | None:
    """How the answer differs from its line by more than rounding; None if it does not."""
    others = [name for name in FIELDS if name != "items" and fields[name] != line[name]]
    if others:
        return "; ".join(f"{name} is {fields[name]!r}, not {line[name]!r}" for name in others)
    if line.get("scores") is None or None in line["scores"]:
        same = [item["item_id"] for item in fields["items"]] == line["items"]
        return None if same else "the items differ, and no scores were recorded that could show why"
    recorded = [{"item_id": item, "score": score} for item, score in zip(line["items"], line["scores"], strict=True)]
    return response.find_difference({"items": recorded}, fields)


def inputs_part(line: Line, recomputed: Recomputed, has_secret: bool) -> ReportPart:
    """Where the inputs were found, and whether they are what the answer read.

    Args:
        has_secret: whether the secret of the digests is here.
    """
    facts = {f"{name} from": place for name, place in recomputed.read_from.items()}
    if recomputed.differs:
        note = f"{' and '.join(recomputed.differs)} differ"
        return ReportPart("inputs", facts | {"inputs": "different"}, note=note)
    if "list" in recomputed.read_from:
        return ReportPart("inputs", facts, note=FROM_EDGE)
    if not line.get("inputs"):
        return ReportPart("inputs", facts, note="the line holds no digest of what the model read")
    if not has_secret:
        return ReportPart("inputs", facts, note=f"history and traits are not compared: {inputs.NO_SECRET}")
    return ReportPart("inputs", facts | {"inputs": "identical"})
