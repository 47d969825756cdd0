"""A recorded answer computed anew from its registered artifact, and whether it is the same.

Byte for byte where processor class and locked libraries are those that answered; elsewhere the same items, in whose
order only scores within 1e-5 of each other may change places. Says which of both it showed; ends with 1 where neither.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from config import params
from config.command import exits_cleanly
from experiments.lineage import report as lineage_options
from experiments.lineage.recompute import Recomputed, recompute
from experiments.lineage.report import Part
from experiments.lineage.served_log import ServedLines
from serving.edge.answer import FIELDS, OWN_FIELDS, digest, finish, read
from serving.worker import response
from serving.worker.response import find_difference

IDENTICAL, SAME_ITEMS, DIFFERENT = "identical bytes", "same items", "different"


def compare(line: Mapping[str, Any], done: Recomputed) -> Part:
    """Which of both was shown; `result` is IDENTICAL, SAME_ITEMS or DIFFERENT."""
    here, there = response.describe_processor(), line.get("computed_on")
    facts: dict[str, Any] = {"result": IDENTICAL, "digest": digest(done.answer.body)}
    facts |= {"recorded digest": line.get("digest"), "computed on": there, "replayed on": here}
    if facts["digest"] == line.get("digest"):
        return Part("replay", facts)
    fault = _fault(line, read(done.answer))
    if here == there:
        told = f"{fault or 'its bytes differ'}, on the same processor class and libraries"
        return Part("replay", facts | {"result": DIFFERENT}, note=told)
    if fault is not None:
        return Part("replay", facts | {"result": DIFFERENT}, note=fault)
    return Part("replay", facts | {"result": SAME_ITEMS, "scores": "within 1e-5"})


def _fault(line: Mapping[str, Any], fields: dict[str, Any]) -> str | None:
    """How the answer departs from its line, beyond rounding."""
    others = [name for name in FIELDS if name != "items" and fields[name] != line[name]]
    if others:
        return "; ".join(f"{name} is {fields[name]!r}, not {line[name]!r}" for name in others)
    if line.get("scores") is None or None in line["scores"]:
        same = [item["item_id"] for item in fields["items"]] == line["items"]
        return None if same else "the items differ, and no scores were recorded to tell why"
    recorded = [{"item_id": item, "score": score} for item, score in zip(line["items"], line["scores"], strict=True)]
    return find_difference({"items": recorded}, fields)


def inputs_part(line: Mapping[str, Any], done: Recomputed, hidden: bool) -> Part:
    """Where what the model read was found, and whether it is what the answer read.

    Args:
        hidden: whether the secret that the digests are under is not here.
    """
    facts = {f"{name} from": where for name, where in done.read_from.items()}
    if done.differs:
        return Part("inputs", facts | {"inputs": "different"}, note=f"{' and '.join(done.differs)} differ")
    if "list" in done.read_from:
        return Part("inputs", facts, note="no worker computed this answer: the edge gave a list that it had")
    if not line.get("inputs"):
        return Part("inputs", facts, note="the line states no digest of what the model read")
    if hidden:
        return Part("inputs", facts, note="history and traits are not compared: the edge's secret is not here")
    return Part("inputs", facts | {"inputs": "identical"})


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.replay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("request_id", metavar="REQUEST_ID", help="as an answer states it")
    parser.add_argument("--user", metavar="ID", help="who asked, where the data set here does not hold the user")
    parser.add_argument("--body", type=Path, metavar="FILE", help="write the body that the client got")
    lineage_options.add(parser)
    given = parser.parse_args(argv)
    folder = lineage_options.served(given)
    line, secret = ServedLines(folder).find(given.request_id)[-1], lineage_options.secret(folder)
    done = recompute(line, folder, secret, given.user, params.load(given.params))
    compared = compare(line, done)
    if given.body is not None:
        given.body.write_bytes(finish(done.answer, {name: line[name] for name in OWN_FIELDS}))
    title = f"replay of {given.request_id}: {compared.facts['result']}"
    lineage_options.show(title, [compared, inputs_part(line, done, secret is None)], given)
    return int(compared.facts["result"] == DIFFERENT)


if __name__ == "__main__":
    sys.exit(main())
