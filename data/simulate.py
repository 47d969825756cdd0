"""Write the simulated streaming platform as files: Parquet tables, and oracle.npz with its true preferences."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pydantic import ValidationError

from config import params
from config.command import exits_cleanly
from config.validation import describe_error
from data.simulator.plays import SimulationError
from data.simulator.simulation import TABLES, simulate


def _settings(arguments: argparse.Namespace, defaults: params.Simulate) -> params.Simulate:
    options = {name: getattr(arguments, name) for name in params.Simulate.model_fields}
    changes = {name: value for name, value in options.items() if value is not None}
    try:
        return params.Simulate.model_validate(defaults.model_dump() | changes)
    except ValidationError as error:
        first = error.errors()[0]
        raise SimulationError(describe_error(f"--{first['loc'][0]}", first)) from None


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m data.simulate", description=__doc__)
    parser.add_argument("--params", default="params.yaml", help="settings (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    for name in params.Simulate.model_fields:
        parser.add_argument(f"--{name}", help=f"instead of simulate.{name}")
    parser.add_argument("--seed", type=int, help="instead of seed")
    arguments = parser.parse_args(argv)
    settings = params.load(arguments.params)
    seed = settings.seed if arguments.seed is None else arguments.seed
    simulation = simulate(_settings(arguments, settings.simulate), seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        getattr(simulation, name).to_parquet(arguments.out / f"{name}.parquet", index=False)
    simulation.oracle.save(arguments.out / "oracle.npz")
    print(
        f"simulated {len(simulation.events):,} plays of {len(simulation.items):,} items by "
        f"{len(simulation.users):,} users (seed {seed}) -> {arguments.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
