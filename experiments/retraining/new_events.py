"""Prepare a retraining: where time is cut, and which configurations a workspace fits.

Everything that an earlier version of the dataset held may be learned from; only events after its end judge. So nobody
has looked at the new holdout, and neither champion nor candidate was fitted on it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from config.command import UserError
from config.paths import EXPERIMENTS, INGESTED, SPLIT
from data.times import to_iso
from experiments.orchestration import workspace
from experiments.orchestration.workspace import edited
from serving.deployment import promotion
from serving.deployment.registry import read_manifest
from training.models.base import models

NOTE = EXPERIMENTS / "retrain.json"


class FittedChampion(NamedTuple):
    """The version that serves now, and how it was made."""

    version: str
    label: str
    configuration: dict
    fit_until_us: int


def read_champion(dataset: str) -> FittedChampion:
    """Read the champion of a dataset. Raises UserError if it has none, or if its manifest is missing."""
    version = promotion.serving_target(dataset).version
    manifest = read_manifest(version)
    return FittedChampion(version.version, manifest["label"], manifest["params"], manifest["fit_until_us"])


# --- cuts


class RetrainCuts(NamedTuple):
    """Times in microseconds."""

    valid_start: int
    test_start: int
    end: int  # the last event


def choose_cuts(old_end_us: int, end_us: int) -> RetrainCuts:
    """Choose the cuts: the new events are the test part, and the validation part before them is as long.

    Raises:
        UserError: no event is new.
    """
    if end_us <= old_end_us:
        raise UserError(f"SOURCE holds no event after {to_iso(old_end_us)}, the end of the previous version")
    test_start = old_end_us + 1
    return RetrainCuts(2 * test_start - end_us - 1, test_start, end_us)


def previous_end(folder: Path, champion: FittedChampion) -> int:
    """The last time that is not new: the end of the previous version, else of what the champion was fitted on.

    A run that was interrupted has already split the new version; its note holds the end of the previous one.
    """
    manifest, note = folder / SPLIT / "manifest.json", folder / NOTE
    if not manifest.exists():
        return champion.fit_until_us - 1
    end = json.loads(manifest.read_text())["end_us"]
    begun = json.loads(note.read_text()) if note.exists() else {}
    return begun["old_end_us"] if begun.get("end_us") == end else end


def write_note(folder: Path, old_end_us: int, cuts: RetrainCuts) -> None:
    """Note the end of the previous version, for a run that is interrupted."""
    (folder / NOTE).parent.mkdir(parents=True, exist_ok=True)
    (folder / NOTE).write_text(json.dumps({"old_end_us": old_end_us, "end_us": cuts.end}))


def newest_event(folder: Path) -> int:
    """Time of the newest event of a workspace, in microseconds."""
    times = pd.read_parquet(folder / INGESTED / "events.parquet", columns=["event_time"])["event_time"]
    return int(times.max().value // 1000)


# --- configurations


def prepare_workspace(folder: Path, champion: FittedChampion, cuts: RetrainCuts, candidates: list[str]) -> list[str]:
    """Write cuts and configurations into a workspace; returns the labels that it fits."""
    sections = params_sections(champion.label, champion.configuration)
    with edited(folder / "params.yaml") as settings:
        # As text: DVC cannot compare a YAML date.
        settings["split"] |= {"valid_start": to_iso(cuts.valid_start), "test_start": to_iso(cuts.test_start)}
        models = settings["train"]["models"]
        models |= sections
        for label in candidates:
            if label not in models:
                raise UserError(f"--candidates {label}: train.models holds {', '.join(models)}")
        wanted = {*sections, *candidates, *(label for label, one in models.items() if one["name"] == "popularity")}
        wanted |= {part for label in candidates for part in models[label].get("parts", [])}
        labels = [label for label in models if label in wanted]
    workspace.select_models(folder, labels)
    return labels


def params_sections(label: str, configuration: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Sections of train.models, by label, that fit a configuration again: its own, and those of a hybrid's parts.

    Values that the fit added (steps, weights, sizes) are left out: newer data brings its own. Where validation chose
    among several values, the section holds the chosen one.

    Raises:
        UserError: this code does not know the model.
    """
    name = str(configuration.get("name"))
    if name not in models():
        raise UserError(f"{label} is a {name!r}, which this code cannot fit; it knows {', '.join(models())}")
    parts = configuration.get("parts", {})
    sections = {key: section for part, inner in parts.items() for key, section in params_sections(part, inner).items()}
    fields = models()[name].hyperparameters_type.model_fields
    own = {key: configuration[key] for key in fields if key in configuration}
    if parts:
        own["parts"] = list(parts)
    if "l2" in own and not isinstance(own["l2"], list):
        own["l2"] = [own["l2"]]
    if missing := fields.keys() - own.keys():
        raise UserError(
            f"the configuration of {label} lacks {', '.join(sorted(missing))}, which {name} has in this code"
        )
    return sections | {label: own}


def remove_other_measurements(folder: Path, labels: list[str]) -> None:
    """Remove measurements of models that are not fitted this time: they belong to a previous split."""
    for name in ("metrics", "rankings"):
        for path in (folder / EXPERIMENTS / name).glob("*"):
            if path.stem not in (*labels, "items"):
                path.unlink()
