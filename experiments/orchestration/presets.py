"""Recipes that a search found on a data set, kept with how they were found: fitted again without the search."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import yaml

from command import UserError
from params import ROOT
from training import provenance

HOME = ROOT / "experiments" / "presets"


def read(name: str) -> dict[str, dict]:
    """The recipes of a preset, by label.

    Raises:
        UserError: there is none of that name; lists those there are.
    """
    path = HOME / f"{name}.yaml"
    known = sorted(one.stem for one in HOME.glob("*.yaml"))
    if name not in known:
        raise UserError(f"PRESET is {name!r}; experiments/presets holds {', '.join(known) or 'none'}")
    return yaml.safe_load(path.read_text())["models"]


def found_on(dataset: str) -> list[str]:
    """The presets that were found on a data set, ours and the peers'."""
    found = {path.stem: yaml.safe_load(path.read_text())["found"]["dataset"] for path in HOME.glob("*.yaml")}
    return sorted(name for name, on in found.items() if on == dataset)


def write(path: Path, dataset: str, split_id: str, command: str, recipes: dict[str, dict]) -> None:
    """Keep recipes with their provenance."""
    found = {
        "dataset": dataset,
        "split_id": split_id,
        "command": command,
        "commit": provenance.commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"found": found, "models": recipes}, sort_keys=False))
