"""Fit the features of one or more cuts on the split events: vocabulary, log, item features and trait encoders."""

from __future__ import annotations

import argparse
import sys

from config import params
from config.command import exits_cleanly
from config.paths import FEATURES
from features.feature_files import CUTS, FULL, save_features
from features.fit import fit_cuts


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    """Run the stage from the command line."""
    parser = argparse.ArgumentParser(prog="python -m features.featurize", description=__doc__)
    parser.add_argument(
        "--cut",
        nargs="+",
        choices=(*CUTS, FULL),
        default=CUTS,
        help="fit on events before valid_start or test_start, or on all (default: valid test)",
    )
    cuts = parser.parse_args(argv).cut
    for cut, features in fit_cuts(cuts, params.load()):
        save_features(FEATURES / cut, features)
        print(f"fitted features of {len(features.vocabulary.ids):,} items ({cut} cut) -> {FEATURES / cut}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
