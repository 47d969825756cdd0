"""Compute a served answer again from its registered artifact, and compare it with what was served.

On the processor class and locked libraries that answered, the bytes must be identical. Elsewhere the items must be the
same, and only items whose scores are within 1e-5 may change places. Exit code 1 if the answer differs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from config import params
from config.command import exits_cleanly
from experiments.lineage import report
from experiments.lineage.recompute import DIFFERENT, compare, inputs_part, recompute
from experiments.lineage.served_log import ServedLines
from serving.edge.answer import CLIENT_FIELDS, client_body


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.replay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("request_id", metavar="REQUEST_ID", help="as the answer states it")
    parser.add_argument("--user", metavar="ID", help="who asked, if the dataset here does not hold the user")
    parser.add_argument("--body", type=Path, metavar="FILE", help="write the body that the client got")
    report.add_options(parser)
    arguments = parser.parse_args(argv)
    folder = report.served_folder(arguments)
    line, secret = ServedLines(folder).find(arguments.request_id)[-1], report.user_secret(folder)
    recomputed = recompute(line, folder, secret, arguments.user, params.load())
    compared = compare(line, recomputed)
    if arguments.body is not None:
        arguments.body.write_bytes(client_body(recomputed.answer, {name: line[name] for name in CLIENT_FIELDS}))
    result = compared.facts["result"]
    parts = [compared, inputs_part(line, recomputed, secret is not None)]
    report.show(f"replay of {arguments.request_id}: {result}", parts, arguments)
    return int(result == DIFFERENT)


if __name__ == "__main__":
    sys.exit(main())
