"""Check whether anything that a model saw lies in its future; a report with the offending rows."""

from __future__ import annotations

import argparse
import sys

from config import params
from config.command import exits_cleanly
from experiments.leakage import report as leakage_report


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.audit", description=__doc__, epilog="Exit code 1 if a finding fails the audit."
    )
    parser.parse_args(argv)
    report = leakage_report.audit(params.load())
    leakage_report.write(report)
    failed = leakage_report.failures(report)
    for line in failed:
        print(f"leak: {line}", file=sys.stderr)
    result = leakage_report.result_text(report)
    print(f"audited {report['dataset']} in {report['seconds']} s: {result}; report: {leakage_report.PAGE}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
