"""VERB skew: features that served answers read against those of the data set's events as of the same moments.

History, traits and item trends of every answer of the edge's log, or of a sample: whether they match, how they differ
where they do not, and what that costs the scores. Measure after `ingest`: what the data set does not reach is left out,
with the reason. The gate reads out/experiments/skew.json.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from config import params
from config.command import UserError, exits_cleanly
from config.paths import EXPERIMENTS
from data.times import from_iso, to_iso
from experiments.gating import preconditions
from experiments.lineage import ancestry
from experiments.lineage import report as lineage_options
from experiments.lineage import report as lineage_page
from experiments.lineage.served_log import LineageError, ServedLines
from experiments.serving_skew import report as skew_record
from experiments.serving_skew import report as skew_report
from experiments.serving_skew.comparison import (
    GROUPS,
    TRENDS,
    Cost,
    Held,
    cost,
    not_comparable,
    not_computed,
    of_trends,
    of_user,
)
from experiments.serving_skew.sources import Sources, opened
from features.online.json_lines import instant
from training import provenance

Line = Mapping[str, Any]


def sample(lines: Iterable[Line], most: int, seed: int) -> tuple[list[Line], int]:
    """(lines drawn evenly, in their order; how many there are). Holds no more of them at once (Vitter 1985, R)."""
    rng, total = random.Random(seed), 0
    kept: list[tuple[int, Line]] = []
    for total, line in enumerate(lines, start=1):
        if len(kept) < most:
            kept.append((total, line))
        elif (place := rng.randrange(total)) < most:
            kept[place] = total, line
    return [line for _, line in sorted(kept, key=lambda one: one[0])], total


def hold(line: Line, sources: Sources) -> Held:
    """One answer held against the data set."""
    if why := not_computed(line):
        return Held(line, not_comparable(why))
    try:
        model = sources.model(line)
    except LineageError as error:
        return Held(line, not_comparable(f"its version cannot be had: {error}"))
    found, person = of_user(line, model.artifact.config["repeats"], sources)
    trends, snapshot = of_trends(line, model, sources)
    return Held(line, found | {TRENDS: trends}, person, snapshot)


def measure(lines: Sequence[Line], folder: Path, secret: bytes | None, chosen: params.Params) -> dict[str, Any]:
    """Everything that these lines of a served log tell, as plain data."""
    with opened(lines, folder, secret, chosen) as sources:
        held = [hold(line, sources) for line in lines]
        skewed = [at for at, one in enumerate(held) if one.skewed][: chosen.skew.recomputed]
        costs: dict[int, Cost] = {at: found for at in skewed if (found := cost(held[at], sources)) is not None}
        known_us = sources.horizon_us
    return {
        "groups": {group: skew_report.tally([one.outcomes[group] for one in held]) for group in GROUPS},
        "cost": skew_report.costs_of(held, costs),
        "differences": skew_report.differences(held, costs),
        "data_set_known_until": to_iso(known_us) if known_us else None,
    }


def recent(lines: Iterable[Line], since_us: int) -> Iterable[Line]:
    """Those of answers given from a moment on."""
    return (line for line in lines if from_iso(given_at(line)) >= since_us)


def given_at(line: Line) -> str:
    """The moment of an answer, as a list that the edge had need not bear its own."""
    return line.get("asked") or line["time"]


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    given = options().parse_args(argv)
    chosen, folder = params.load(given.params), lineage_options.served(given)
    most = chosen.skew.answers if given.limit is None else given.limit
    if most < 1:
        raise UserError(f"--limit is {most}; expected at least 1")
    since_us = 0 if given.since is None else instant("--since", given.since)
    log = ServedLines(folder)
    lines, total = sample(recent(log.each(), since_us), most, chosen.seed)
    if not lines:
        raise LineageError(f"no answer to hold against the data set: {log.described()}")
    times = sorted(map(given_at, lines))
    record = {
        "dataset": chosen.dataset, "dataset_hash": ancestry.local_dataset(), "commit": provenance.commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), "answers": len(lines), "of": total,
        "since": given.since, "seed": chosen.seed, "oldest": times[0], "newest": times[-1],
    } | measure(lines, folder, lineage_options.secret(folder), chosen)  # fmt: skip
    return report(record, chosen.gate, given)


def report(record: dict[str, Any], policy: params.Gate, given: argparse.Namespace) -> int:
    """Write and show it; 1 where the gate would refuse."""
    told, parts = skew_report.title(record), skew_report.parts(record)
    skew_record.write(record, lineage_page.page(told, parts))
    lineage_options.show(told, parts, given)
    refusal = preconditions.skewed(record, policy)
    if refusal is not None:
        print(f"skew: the gate refuses to judge: {refusal.reason}", file=sys.stderr)
    if not given.json:
        print(f"-> {EXPERIMENTS}/skew.html, .json")
    return int(refusal is not None)


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.skew",
        description=(__doc__ or "").removeprefix("VERB skew: "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit code 1 where a group matches less often than gate.min_match_rate.",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="answers, drawn by the seed (default: skew.answers)")
    parser.add_argument("--since", metavar="TIME", help="answers from then on (default: all)")
    lineage_options.add(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
