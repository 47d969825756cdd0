"""Follow an event, a user, an item or a dataset version to runs, versions, endpoints and answers."""

from __future__ import annotations

import argparse
import sys

from config import params
from config.command import exits_cleanly
from experiments.lineage import downstream, report


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    arguments = options().parse_args(argv)
    settings, folder = params.load(), report.served_folder(arguments)
    if arguments.dataset is not None:
        kind, name = "dataset version", arguments.dataset
        parts = downstream.dataset_impact(name, folder, settings)
    else:
        kind = next(kind for kind in downstream.ID_COLUMNS if getattr(arguments, kind) is not None)
        name = getattr(arguments, kind)
        parts = downstream.events_impact(kind, name, folder, report.user_secret(folder), settings)
    report.show(f"impact of {kind} {name}", parts, arguments)
    return 0


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.impact", description=__doc__)
    data = parser.add_mutually_exclusive_group(required=True)
    for kind in downstream.ID_COLUMNS:
        data.add_argument(f"--{kind}", metavar="ID")
    data.add_argument("--dataset", metavar="HASH", help="of a dataset version, or the beginning of it")
    report.add_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
