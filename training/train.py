"""Fit models at both cuts. The fit at `valid` finds hyperparameters and steps, the fit at `test` uses them."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from config import params
from config.command import exits_cleanly
from config.paths import CHECKPOINTS, FEATURES, FITTED
from features import feature_files
from features.feature_files import Features
from training import distributed, tracking
from training.fitting import FitResult, fit, hyperparameters_for, load_parts, save_fit
from training.model_factory import is_learned, load_settings

CUTS = ("valid", "test")
EPILOG = (
    f"{distributed.VARIABLE}=2 shares each step of a network's fit between two processes: GPUs where there are any."
)


def train(label: str, hyperparameters: dict[str, Any], features: Features, settings: params.Params) -> FitResult:
    """Fit one model of params.yaml at the cut of `features`, log the run to MLflow and write the result."""
    cut = features.description["cut"]
    parts = load_parts(hyperparameters, cut, features)
    learned = is_learned(hyperparameters["name"])
    seed = settings.train.seed if learned else settings.seed
    devices = distributed.num_devices() if learned and parts is None else 1
    with tracking.training_run(label, hyperparameters, features, settings) as run:
        result = fit(hyperparameters, features, settings.train, seed, run.log_epoch, CHECKPOINTS, parts, devices)
        run.tag(devices=str(devices))
        run.log_fit(result)
    save_fit(FITTED / label / cut, result, {"label": label, "cut": cut, "run_id": run.run_id, "seed": seed})
    return result


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__, epilog=EPILOG)
    parser.add_argument(
        "--model", nargs="+", action="extend", required=True, metavar="LABEL", help="a key of params.yaml: train.models"
    )
    parser.add_argument("--cut", nargs="+", choices=CUTS, default=CUTS, help="default: both")
    arguments = parser.parse_args(argv)
    settings = load_settings()
    for cut in (cut for cut in CUTS if cut in arguments.cut):
        features = None
        for label in arguments.model:
            hyperparameters = hyperparameters_for(label, cut, settings)
            features = features or feature_files.load_features(FEATURES / cut)
            result = train(label, hyperparameters, features, settings)
            scores = ", ".join(f"{target} {value:.3f}" for target, value in result.validation.items())
            period = "validation" if cut == "valid" else cut
            seconds = f"{result.seconds:.1f} s" + (" with its parts" if "parts" in hyperparameters else "")
            print(f"trained {label} ({period}) in {seconds}{scores and f': NDCG@10 {scores}'}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
