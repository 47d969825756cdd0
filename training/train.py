"""Fit one model at one cut. At `valid` its hyperparameters and steps are chosen; at `test` they are used."""

from __future__ import annotations

import argparse
import sys

from config.command import exits_cleanly
from config.paths import CHECKPOINTS, FEATURES, FITTED
from features import feature_files
from training import distributed, tracking
from training.fit_files import hyperparameters_for, load_parts, save_fit
from training.fitting import fit
from training.model_factory import is_learned, load_settings

EPILOG = (
    f"{distributed.VARIABLE}=2 shares each step of a network's fit between two processes: GPUs where there are any."
)


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG)
    parser.add_argument("--model", required=True, help="a label of params.yaml: train.models")
    parser.add_argument("--cut", choices=("valid", "test"), required=True)
    arguments = parser.parse_args(argv)
    label, cut = arguments.model, arguments.cut
    settings = load_settings()
    seed = settings.train.seed
    chosen = hyperparameters_for(label, cut, settings)
    features = feature_files.load(FEATURES / cut)
    with tracking.training_run(label, chosen, features, settings) as run:
        parts = load_parts(chosen, cut, features)
        devices = distributed.num_devices() if is_learned(chosen["name"]) and parts is None else 1
        result = fit(chosen, features, settings.train, seed, run.log_epoch, CHECKPOINTS, parts, devices)
        run.tag(devices=str(devices))
        run.log_fit(result)
    save_fit(FITTED / label / cut, result, {"label": label, "cut": cut, "run_id": run.run_id, "seed": seed})
    scores = ", ".join(
        f"{target} {result.validation[target]:.3f}" for target in sorted(result.validation, reverse=True)
    )
    period = "validation" if cut == "valid" else cut
    print(f"trained {label} ({period}) in {result.seconds:.0f} s" + (f": NDCG@10 {scores}" if scores else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
