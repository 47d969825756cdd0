"""Export the models fitted at the test cut as artifact folders with golden answers."""

from __future__ import annotations

import config.command  # noqa: F401  # before torch, which reads how threads wait

# isort: split

import argparse
import json
import sys
import time

import torch

from config import params
from config.command import exits_cleanly
from config.paths import ARTIFACTS, FEATURES, FITTED
from data.files import require_file
from features import feature_files
from serving.artifact.export_artifact import GOLDEN_REQUESTS, SideTables, export_artifact


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serving.export", description=__doc__)
    parser.add_argument(
        "--model", nargs="+", action="extend", required=True, metavar="LABEL", help="a key of params.yaml: train.models"
    )
    labels = parser.parse_args(argv).model
    torch.set_num_threads(1)
    settings = params.load()
    for label in labels:
        require_file(FITTED / label / "test" / "fit.json", f"`python -m training.train --model {label} --cut test`")
    features, sides = feature_files.load_features(FEATURES / "test"), SideTables.read()
    for label in labels:
        begun, fitted, folder = time.monotonic(), FITTED / label / "test", ARTIFACTS / label
        fit = json.loads((fitted / "fit.json").read_text(encoding="utf-8"))
        export_artifact(folder, fitted / "weights.safetensors", fit, features, settings, sides)
        seconds = time.monotonic() - begun
        print(f"exported {label} in {seconds:.1f} s: {folder} with {GOLDEN_REQUESTS} golden answers", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
