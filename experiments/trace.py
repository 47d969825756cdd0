"""Trace an answer back to its version, gate report, run, code, dataset version and the events that it read.

The served log holds pseudonyms. Only the edge's secret, together with the events themselves, shows who a user is.
"""

from __future__ import annotations

import argparse
import sys

from config import params
from config.command import exits_cleanly
from experiments.lineage import report, upstream
from experiments.lineage.served_log import ServedLines


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.trace", description=__doc__.splitlines()[0])
    parser.add_argument("request_id", metavar="REQUEST_ID", help="as the answer states it")
    parser.add_argument("--user", metavar="ID", help="who asked, if the dataset here does not hold the user")
    report.add_options(parser)
    arguments = parser.parse_args(argv)
    folder = report.served_folder(arguments)
    lines = ServedLines(folder).find(arguments.request_id)
    settings = params.load()
    parts = upstream.trace(lines[-1], len(lines), report.user_secret(folder), arguments.user, settings)
    report.show(f"trace of {arguments.request_id}", parts, arguments)
    return 0


if __name__ == "__main__":
    sys.exit(main())
