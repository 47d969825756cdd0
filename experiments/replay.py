"""Compute a served answer again from its registered artifact, and compare it with what was served.

On the processor class and locked libraries that answered, the bytes must be identical. Elsewhere the items must be the
same, and only items whose scores are within 1e-5 may change places. Exit code 1 if the answer differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from config import params
from config.command import exits_cleanly
from data.times import from_iso
from experiments.lineage import inputs, report, served_log, versions
from experiments.lineage.inputs import UserReading
from experiments.lineage.report import ReportPart
from experiments.lineage.served_log import FROM_EDGE, NOT_COMPUTED, Line, LineageError, find_lines
from features.trends import TrendSnapshot
from features.vocabulary import Vocabulary
from serving.edge import request_log
from serving.edge.answer import CLIENT_FIELDS, FIELDS, Answer, build_answer, client_body, digest, parse_answer
from serving.edge.fallback import PopularList, artifact_list
from serving.worker import response
from serving.worker.recommender import Recommender
from serving.worker.request import MAX_K, Request
from serving.worker.users import User
from training.threads import one_thread

IDENTICAL, SAME_ITEMS, DIFFERENT = "identical bytes", "same items", "different"


class Recomputed(NamedTuple):
    """An answer computed again."""

    answer: Answer
    read_from: dict[str, str]  # part of the input -> where it was found
    differs: list[str]  # parts that are not what the answer read


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
        user_id: who may have sent the request; None searches all users of the dataset.

    Raises:
        LineageError: something that is needed is missing; the text says what, and where it was searched.
        RegistryError: the artifact is missing, corrupt, or not the one that was registered.
    """
    if line["source"] == "cached":
        raise LineageError(f"this answer repeats the user's answer of {line['time']}; replay that one")
    with tempfile.TemporaryDirectory(prefix="tidegate-") as scratch, one_thread():
        recommender = versions.load_version(line, Path(scratch))
        trends, snapshot = inputs.find_trends(line, recommender, settings)
        if line["cache"] == NOT_COMPUTED:
            recommender.lookup = FixedLookup(User(), snapshot)
            answer = _answer_of_edge(line, folder, recommender)
            return Recomputed(answer, {"list": "the artifact", "trends": trends}, [])
        body, reading = _worker_request(line, folder, recommender, secret, user_id, settings)
        recommender.lookup = FixedLookup(reading.user if reading else User(), snapshot)
        fields = _recommend(recommender, body, line)
    read_from = {"history": reading.source if reading else "the request", "trends": trends}
    differs = inputs.changed_parts(line, fields["inputs"], secret, fields["inputs"])
    if line["history_source"] == request_log.WITHHELD:
        fields["reason"] = line["reason"]  # written by the edge: the worker does not know why the user is withheld
    return Recomputed(build_answer(fields), read_from, differs)


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
    if line["history_source"] != request_log.FROM_STORE or "history" in body:
        return body if line["history_source"] == request_log.NO_HISTORY else {"history": [], **body}, None
    repeats = recommender.artifact.config["repeats"]
    found_id, reading = inputs.read_user(line, repeats, secret, user_id, settings, body.get("context") or {})
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


# --- comparison with what was served


def compare(line: Line, recomputed: Recomputed) -> ReportPart:
    """Compare an answer computed again with its line; `result` is IDENTICAL, SAME_ITEMS or DIFFERENT."""
    processor, digest_now = response.describe_processor(), digest(recomputed.answer.body)
    difference, result = None, IDENTICAL
    if digest_now != line["digest"]:
        difference = _difference(line, parse_answer(recomputed.answer))
        if processor == line["computed_on"]:
            difference = f"{difference or 'its bytes differ'}, on the same processor class and libraries"
        result = DIFFERENT if difference else SAME_ITEMS
    facts = {"result": result, "digest": digest_now, "recorded digest": line["digest"]}
    facts |= {"computed on": line["computed_on"], "replayed on": processor}
    return ReportPart("replay", facts, note=difference or "")


def _difference(line: Line, fields: dict[str, Any]) -> str | None:
    """How the answer differs from its line by more than rounding; None if it does not."""
    others = [name for name in FIELDS if name != "items" and fields[name] != line[name]]
    if others:
        return "; ".join(f"{name} is {fields[name]!r}, not {line[name]!r}" for name in others)
    if None in line["scores"]:  # a list without scores
        return None if [item["item_id"] for item in fields["items"]] == line["items"] else "the items differ"
    recorded = [{"item_id": item, "score": score} for item, score in zip(line["items"], line["scores"], strict=True)]
    return response.find_difference({"items": recorded}, fields)


def inputs_part(recomputed: Recomputed, secret: bytes | None) -> ReportPart:
    """Where the inputs were found, and whether they are what the answer read."""
    facts = {f"{name} from": place for name, place in recomputed.read_from.items()}
    if "list" in recomputed.read_from:
        return ReportPart("inputs", facts, note=FROM_EDGE)
    note = f"{' and '.join(recomputed.differs)} differ" if recomputed.differs else ""
    if not note and secret is None:
        note = f"history and traits are not compared: {inputs.NO_SECRET}"
    return ReportPart("inputs", facts if note else facts | {"inputs": "identical"}, note=note)


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.replay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("request_id", metavar="REQUEST_ID", help="from the answer")
    parser.add_argument("--user", metavar="ID", help="who sent the request, if the dataset here does not hold the user")
    parser.add_argument("--body", type=Path, metavar="FILE", help="write the body that the client got")
    report.add_options(parser)
    arguments = parser.parse_args(argv)
    folder = report.served_folder(arguments)
    line = find_lines(folder, arguments.request_id)[-1]
    secret = report.secret_of(line, report.keys_of_users())
    recomputed = recompute(line, folder, secret, arguments.user, params.load())
    compared = compare(line, recomputed)
    if arguments.body is not None:
        arguments.body.write_bytes(client_body(recomputed.answer, {name: line[name] for name in CLIENT_FIELDS}))
    result = compared.facts["result"]
    report.show(f"replay of {arguments.request_id}: {result}", [compared, inputs_part(recomputed, secret)], arguments)
    return int(result == DIFFERENT)


if __name__ == "__main__":
    sys.exit(main())
