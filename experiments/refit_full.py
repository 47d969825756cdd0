"""Fit the champion's configuration once more, on all events, so that the newest are used too."""

from __future__ import annotations

import argparse
import json
import sys

from config import params
from config.command import exits_cleanly
from config.paths import EXPERIMENTS
from experiments.gating import preconditions, report_page
from experiments.retraining import refit

REPORT = EXPERIMENTS / "refit.json"
PAGE = REPORT.with_suffix(".html")


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.refit_full", description=__doc__)
    preconditions.add_override_option(parser)
    override = parser.parse_args(argv).override
    settings = params.load()
    parent = refit.refittable_champion(settings.dataset)
    if parent_ref := parent.report.get("under"):
        name = f"{settings.dataset} {parent.version.version}"
        print(f"nothing to do: {name}, the champion, is a refit of {parent_ref['version']}")
        return 0
    report = refit.run(settings, parent, override)
    REPORT.write_text(json.dumps(report, indent=1, sort_keys=True))
    PAGE.write_text(report_page.page(report))
    print(report_page.summary(report, PAGE))
    return 0


if __name__ == "__main__":
    sys.exit(main())
