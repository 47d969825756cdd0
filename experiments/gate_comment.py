"""The gate's report as Markdown, short enough for a comment on a pull request; printed."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from config.command import UserError, exits_cleanly
from config.paths import EXPERIMENTS
from experiments.gating.report_checks import checks
from experiments.gating.report_page import BADGES, SAID, champion_of

REPORT = EXPERIMENTS / "gate.json"
SIGNS = {"PROMOTE": "🟢", "HOLD": "🟡", "REJECT": "🔴", "OVERRIDE": "🔴", "INSUFFICIENT_DATA": "⚪"}


def comment(report: dict[str, Any]) -> str:
    """Verdict, reason, what to do next, and each check with what was found."""
    said = SAID[report["verdict"]].format(label=report["label"], champion=champion_of(report))
    lines = [f"## {SIGNS[report['verdict']]} {report['verdict'].replace('_', ' ')}: {said}", ""]
    lines += [f"> **OVERRIDE**: {text}" for text in report.get("overrides", [])]
    lines += [f"> {report['instead']}"] if report.get("instead") else []
    lines += [f"{report['reason'][:1].upper()}{report['reason'][1:]}.", ""]
    if advice := report.get("advice"):
        lines += [f"**Next:** {advice}.", ""]
    if rows := checks(report):
        lines += ["| what is asked | found | bar | |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {_cell(row.name)} | {_cell(row.found)} | {_cell(row.bar)} | {BADGES[row.state]} |" for row in rows
        ]
        lines.append("")
    code = report.get("code", {})
    lines.append(f"Data set `{report['dataset']}`, code `{str(code.get('commit', '-'))[:12]}`, {report['date']}.")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.gate_comment", description=__doc__)
    parser.add_argument("--report", type=Path, default=REPORT, help="default: %(default)s")
    path = parser.parse_args(argv).report
    if not path.exists():
        raise UserError(f"--report {path} does not exist; ask the gate first (make gate)")
    try:
        print(comment(json.loads(path.read_text())))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"--report {path} is no report of the gate: {error!r}") from None
    return 0


if __name__ == "__main__":
    sys.exit(main())
