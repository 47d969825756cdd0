"""Write the simulated streaming platform as files: Parquet tables, and oracle.npz with its true preferences."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from config import params
from config.command import exits_cleanly
from data.simulator.simulation import TABLES, simulate


@exits_cleanly
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m data.simulate", description=__doc__)
    parser.add_argument("--params", default="params.yaml", help="settings: sizes, start, seed (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="output folder")
    arguments = parser.parse_args(argv)
    settings = params.load(arguments.params)
    simulation = simulate(settings.simulate, settings.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        getattr(simulation, name).to_parquet(arguments.out / f"{name}.parquet", index=False)
    simulation.oracle.save(arguments.out / "oracle.npz")
    print(
        f"simulated {len(simulation.events):,} plays of {len(simulation.items):,} items by "
        f"{len(simulation.users):,} users (seed {settings.seed}) -> {arguments.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
