"""Two fits at the same time on all cores, against one alone: threads that spin while they wait would slow both."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from statistics import median

from benchmarks._record import write
from config import params
from config.command import exits_cleanly
from config.paths import ROOT

RUNS = 3
BAR = 2.5  # two at once take at most so many times as long as one alone
STEPS = 60


def fit_once(steps: int) -> float:
    """Seconds of one fit of two_tower on made-up events, imports not counted."""
    from benchmarks._synthetic import Size, features
    from training.fitting import fit

    settings = params.load(ROOT / "params.yaml")
    size = Size(users=2_000, items=1_000, events=30)
    made = features(size, settings)
    exactly = {"best_steps": steps, "train_events": size.users * size.events}  # the cut is `test`: no early stopping
    hyperparameters = settings.train.models["two_tower"].model_dump() | exactly
    started = time.perf_counter()
    fit(hyperparameters, made, settings.train, settings.train.seed)
    return time.perf_counter() - started


def seconds(number: int, steps: int) -> float:
    """The longest of so many fits that run at once, each in a process of its own."""
    own = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-m", "benchmarks.side_by_side", "--fit", "--steps", str(steps)]
    running = [subprocess.Popen(command, env=own, stdout=subprocess.PIPE, encoding="utf-8") for _ in range(number)]
    return max(float(process.communicate()[0].split()[-1]) for process in running)


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.side_by_side", description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS, help="of each fit (default: %(default)s)")
    parser.add_argument("--fit", action="store_true", help="run one fit and print its seconds")
    arguments = parser.parse_args(argv)
    if arguments.fit:
        print(f"{fit_once(arguments.steps):.3f}")
        return 0
    alone, together = ([seconds(number, arguments.steps) for _ in range(RUNS)] for number in (1, 2))
    ratio = median(together) / median(alone)
    ranges = [f"{median(times):.1f} s ({min(times):.1f} to {max(times):.1f})" for times in (alone, together)]
    path = write("side_by_side", {"alone": alone, "together": together, "ratio": round(ratio, 2), "bar": BAR})
    print(f"one fit alone {ranges[0]}, each of two at once {ranges[1]}: {ratio:.2f} times as long; bar {BAR} -> {path}")
    return 0 if ratio <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
