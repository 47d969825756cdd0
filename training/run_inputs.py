"""The data set version behind a run, as MLflow's UI shows it: name, digest, DVC hash, counts and columns."""

from __future__ import annotations

import json
from pathlib import Path

from features.store import Features

INGESTED = Path("data/out/ingest")
LOCK = Path("dvc.lock")
DIGEST_LENGTH = 36  # MLflow's limit
COLUMN_TYPES = {"int64": "long", "int32": "integer", "float": "float", "double": "double", "bool": "boolean"}


def dataset_input(features: Features):
    """An mlflow.entities.DatasetInput: the data set, and `training (<cut>)` as what it was used for.

    MLflow keeps one data set per name and digest, so what is said of it must not depend on the cut.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    description = features.description
    versioned = dvc_hash()
    named = {"dvc_md5": versioned} if versioned else {"dataset_hash": description["dataset_hash"]}
    dataset = Dataset(
        name=description["dataset"],
        digest=description["dataset_hash"][:DIGEST_LENGTH],
        source_type="dvc" if versioned else "local",
        source=json.dumps({"uri": INGESTED.as_posix(), **named}),
        schema=json.dumps(schema()),
        profile=json.dumps(profile(features) | named),  # the UI shows no source of this type, but all of the profile
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", f"training ({description['cut']})")])


def dvc_hash() -> str | None:
    """The md5 of data/out/ingest as it stands in dvc.lock, by which `dvc pull` finds it; None where DVC has not run."""
    import yaml

    if not LOCK.exists():
        return None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml reads a long lock file ten times as fast
    stages = (yaml.load(LOCK.read_text(), loader) or {}).get("stages", {})
    outs = stages.get("ingest", {}).get("outs", [])
    return next((out["md5"] for out in outs if out["path"] == INGESTED.as_posix()), None)


def profile(features: Features) -> dict[str, int]:
    """Events, users and items of the whole data set; of what the features hold where it is not at hand."""
    manifest = INGESTED / "manifest.json"
    if manifest.exists():
        counts = json.loads(manifest.read_text())["counts"]
    else:
        counts = {
            "events": len(features.log.items),
            "users": len(features.users),
            "items": len(features.vocabulary.ids),
        }
    return {"num_rows": counts["events"], "num_users": counts["users"], "num_items": counts["items"]}


def schema() -> dict[str, list[dict]]:
    """Columns of events.parquet in MLflow's words; empty where the file is not at hand."""
    path = INGESTED / "events.parquet"
    if not path.exists():
        return {"mlflow_colspec": []}
    from pyarrow.parquet import read_schema

    return {"mlflow_colspec": [column(field) for field in read_schema(path)]}


def column(field) -> dict[str, object]:
    """One Arrow field in MLflow's words; what MLflow has no word for is shown as text."""
    name = str(field.type)
    kind = "datetime" if name.startswith(("timestamp", "date")) else COLUMN_TYPES.get(name, "string")
    return {"type": kind, "name": field.name, "required": not field.nullable}
