"""An answer traced back to its version, gate report, run, code, data set version and the events that it read.

The served log names nobody: who a user is, only the edge's secret tells, together with the events themselves.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from config import params
from config.command import exits_cleanly
from experiments.lineage import ancestry, readings
from experiments.lineage import report as lineage_options
from experiments.lineage.report import Part
from experiments.lineage.served_log import LineageError, ServedLines
from serving.deployment import model_versions
from serving.deployment.registry import RegistryError, Version
from serving.edge import wire

ANSWER = ("request_id", "asked", "time", "rung", "reason", "k", "cache", "consent", "basis", "user", "feature_time",
          "trends_time", "segments", "experiment", "bucket", "milliseconds", "computed_on")  # fmt: skip
RESTS_ON = {
    wire.WITHHELD: "the worker was told nothing of the user, so the answer rests on no event of theirs",
    wire.STATED: "the request stated its own history, which the served log does not hold",
    wire.NOBODY: "no user was named and no history stated, so the answer rests on nobody's events",
}
NOT_COMPUTED = "no worker computed this answer: the edge gave a list that it had"


def trace(
    line: Mapping[str, Any], same: int, secret: bytes | None, user: str | None, chosen: params.Params
) -> list[Part]:
    """The whole chain of an answer.

    Args:
        line: of the served log.
        same: how many answers bear its request id.
        user: who is thought to have asked; None looks through the data set.
    """
    parts = [_answer(line, same)]
    version = None
    try:
        version = ancestry.version_of(line.get("dataset") or chosen.dataset, line["model_version"])
        parts += ancestry.parts_of(version)
    except LineageError as error:
        parts.append(Part("version", {"version": line["model_version"] or None}, note=str(error)))
    return [*parts, _events(line, version, secret, user, chosen)]


def _answer(line: Mapping[str, Any], same: int) -> Part:
    facts = {name.replace("_", " "): line.get(name) for name in ANSWER}
    scores = line.get("scores") or [None] * len(line["items"])
    rows = [
        {"place": place, "item_id": item, "score": score}
        for place, (item, score) in enumerate(zip(line["items"], scores, strict=True), start=1)
    ]
    note = f"{same} answers bear this request id; this is the last" if same > 1 else ""
    return Part("answer", facts, rows, note)


def _events(
    line: Mapping[str, Any], version: Version | None, secret: bytes | None, user: str | None, chosen: params.Params
) -> Part:
    if line.get("cache") == "none":
        return Part("events", note=NOT_COMPUTED)
    if line.get("basis") in RESTS_ON:
        return Part("events", note=RESTS_ON[line["basis"]])
    if line["user"] is None:
        return Part("events", note=RESTS_ON[wire.NOBODY])
    found = readings.owner(line, secret, user)
    if found is None and (again := readings.nothing(line, secret)):
        return readings.events_part(line, again)
    if found is None:
        return Part("events", {"pseudonym": line["user"]}, note=readings.why_nobody(secret, user))
    again = readings.best(line, found, _repeats(version, chosen), secret, chosen)
    if again is None:
        return Part("events", {"user": found}, note="neither the data set's events nor an online store are here")
    part = readings.events_part(line, again)
    return Part(part.name, {"user": found, **part.facts}, part.rows, part.note)


def _repeats(version: Version | None, chosen: params.Params) -> str:
    """How the model reads repeated items; as params.yaml has it where the artifact cannot be asked."""
    if version is None:
        return chosen.ingest.repeats
    try:
        name = f"{version.dataset} {version.version}"
        return json.loads(model_versions.read(f"{version.source}/config.json", name))["repeats"]
    except (RegistryError, ValueError, KeyError):
        return chosen.ingest.repeats


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.trace", description=__doc__.splitlines()[0])
    parser.add_argument("request_id", metavar="REQUEST_ID", help="as an answer states it")
    parser.add_argument("--user", metavar="ID", help="who asked, where the data set here does not hold the user")
    lineage_options.add(parser)
    given = parser.parse_args(argv)
    folder = lineage_options.served(given)
    found = ServedLines(folder).find(given.request_id)
    parts = trace(found[-1], len(found), lineage_options.secret(folder), given.user, params.load(given.params))
    lineage_options.show(f"trace of {given.request_id}", parts, given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
