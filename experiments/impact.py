"""From an event, a user, an item or a data set version forward to runs, versions, endpoints and answers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from config import params
from config.command import exits_cleanly
from config.paths import SPLIT
from experiments.lineage import ancestry, downstream
from experiments.lineage import report as lineage_options
from experiments.lineage.downstream import COLUMN, Origin, answers_part, of_events, runs_part, versions_part
from experiments.lineage.report import Part
from experiments.lineage.served_log import LineageError

SHORTEST_HASH = 6


def of_dataset(stated: str, folder: Path, chosen: params.Params) -> list[Part]:
    """What a data set version reached.

    Args:
        stated: its hash, or how that begins.

    Raises:
        LineageError: nothing here knows such a version.
    """
    place = ancestry.registry_place()
    whole = _whole_hash(stated, chosen)
    origin = Origin(chosen.dataset, whole)
    answers = answers_part(folder, "answers by versions fitted on it", lambda line: line["dataset_version"] == whole)
    parts = [runs_part(origin), versions_part(origin), answers]
    if not any(part.rows for part in parts) and whole != ancestry.local_dataset():
        raise LineageError(f"nothing is known of data set version {stated!r}; looked in {SPLIT}, {place} and {folder}")
    here = whole == ancestry.local_dataset()
    return [Part("data set version", {"name": chosen.dataset, "hash": whole, ancestry.HERE: here}), *parts]


def _whole_hash(stated: str, chosen: params.Params) -> str:
    if len(stated) < SHORTEST_HASH:
        raise LineageError(f"--dataset is {stated!r}; expected a hash, or its first {SHORTEST_HASH} digits or more")
    known = {*downstream.hashes(chosen.dataset), ancestry.local_dataset() or ""}
    same = sorted(one for one in known if one.startswith(stated))
    if len(same) > 1:
        raise LineageError(f"--dataset {stated!r} is how {len(same)} data set versions begin: {', '.join(same)}")
    return same[0] if same else stated


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.impact", description=__doc__.splitlines()[0])
    asked = parser.add_mutually_exclusive_group(required=True)
    for kind in COLUMN:
        asked.add_argument(f"--{kind}", metavar="ID")
    asked.add_argument("--dataset", metavar="HASH", help="of a data set version, or how it begins")
    lineage_options.add(parser)
    return parser


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    given = options().parse_args(argv)
    chosen, folder = params.load(given.params), lineage_options.served(given)
    if given.dataset is not None:
        kind, name, parts = "data set version", given.dataset, of_dataset(given.dataset, folder, chosen)
    else:
        kind = next(kind for kind in COLUMN if getattr(given, kind) is not None)
        name = getattr(given, kind)
        parts = of_events(kind, name, folder, lineage_options.secret(folder), chosen)
    lineage_options.show(f"impact of {kind} {name}", parts, given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
