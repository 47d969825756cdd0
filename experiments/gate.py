"""Judge the best learned model against the champion: PROMOTE, HOLD, REJECT or INSUFFICIENT_DATA.

A platform without a champion first gets the best baseline, so that it can serve before a learned model is good enough.
"""

from __future__ import annotations

import argparse
import json
import sys

from config import params
from config.command import UserError, exits_cleanly
from config.paths import EXPERIMENTS
from data import files
from experiments.gating import preconditions, report_page
from experiments.gating.judgment import run
from serving.deployment.promotion import MIN_REASON_WORDS

REPORT = EXPERIMENTS / "gate.json"
PAGE = REPORT.with_suffix(".html")


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.gate", description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="the label to judge (default: the best learned model on validation)")
    about_refit = "also fit the champion's configuration on the candidate's data"
    parser.add_argument("--refit", action="store_true", help=about_refit)
    about_comment = "judge nothing; print the last report as Markdown for a pull request"
    parser.add_argument("--comment", action="store_true", help=about_comment)
    about_again = "judge a model that a rollback removed although there are no later events; needs --reason"
    parser.add_argument("--again", action="store_true", help=about_again)
    parser.add_argument(
        "--reason", metavar="TEXT", default="", help="why --again; the report and the decision record it"
    )
    preconditions.add_override_option(parser)
    arguments = parser.parse_args(argv)
    if arguments.comment:
        if not REPORT.exists():
            raise UserError(f"{REPORT} does not exist; run `make gate` first")
        print(report_page.markdown(json.loads(REPORT.read_text(encoding="utf-8"))))
        return 0
    if arguments.again != (len(arguments.reason.split()) >= MIN_REASON_WORDS):
        raise UserError(f"--again needs --reason of at least {MIN_REASON_WORDS} words, and --reason needs --again")
    settings = params.load()
    if arguments.refit:
        settings = settings.model_copy(update={"gate": settings.gate.model_copy(update={"refit": True})})
    for report in run(settings, arguments.model, arguments.override, arguments.reason):
        files.write_text(REPORT, json.dumps(report, indent=1, sort_keys=True))
        files.write_text(PAGE, report_page.page(report))
        print(report_page.summary(report, PAGE))
    return 0


if __name__ == "__main__":
    sys.exit(main())
