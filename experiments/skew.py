"""Compare the features that served answers read with those of the dataset as of the same times.

History, traits and item trends of a sample of the served log: whether they match, and how they differ. Run it after
`ingest`: what the dataset does not reach is left out, with the reason. The gate reads the report.
"""

from __future__ import annotations

import argparse
import sys

from config import params
from config.command import exits_cleanly
from experiments.gating import preconditions
from experiments.lineage import report, skew_report
from features.materialization import parse_time


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.skew",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit code 1 if a group is shown to match less often than gate.min_match_rate.",
    )
    parser.add_argument("--since", metavar="TIME", help="answers from then on (default: all)")
    report.add_options(parser)
    arguments = parser.parse_args(argv)
    settings, folder = params.load(), report.served_folder(arguments)
    since_us = 0 if arguments.since is None else parse_time("--since", arguments.since)
    record = skew_report.measure(folder, report.keys_of_users(), settings, arguments.since, since_us)
    skew_report.write(record)
    report.show(skew_report.title(record), skew_report.parts(record), arguments)
    if not arguments.json:
        print(f"report: {skew_report.PAGE}")
    refusal = preconditions.skewed_serving(record, settings.gate)
    if refusal is not None:
        print(f"the gate will not judge: {refusal.reason}", file=sys.stderr)
    return int(refusal is not None)


if __name__ == "__main__":
    sys.exit(main())
