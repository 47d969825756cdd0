"""Where files lie. `out/` holds what can be computed again, `state/` what cannot; nothing else builds these paths.

A command runs in the project's folder or in a workspace (`out/workspaces/<dataset>`, a copy of code and settings with
its own `out/`). Paths in `out/` are relative to it. State is shared by the project and all workspaces; the environment
variable TIDEGATE_STATE moves it.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote, unquote

ROOT = Path(__file__).resolve().parent.parent  # of the code: the project, or one workspace
IN_WORKSPACE = ROOT.parent.name == "workspaces"
PROJECT = ROOT.parents[2] if IN_WORKSPACE else ROOT

# Can be computed again: `make clean` removes it.
OUT = Path("out")
DOWNLOADS = OUT / "data" / "downloads"
INGESTED = OUT / "data" / "ingest"
SPLIT = OUT / "data" / "split"
FEATURES = OUT / "features"  # <cut>
FITTED = OUT / "training"  # <model>/<cut>
CHECKPOINTS = OUT / "checkpoints"
ARTIFACTS = OUT / "serving" / "artifacts"  # <model>
ARCHIVES = OUT / "serving" / "archives"  # <model>.mar
REFITS = OUT / "refit"  # fitted/<model> and artifacts/<model>: on all events
RECOMMENDATIONS = OUT / "serving" / "recommendations.parquet"
REJECTED_PAGE = OUT / "collect" / "rejected.html"
EXPERIMENTS = OUT / "experiments"  # reports of audit, gate, skew, sensitivity ...
METRICS = EXPERIMENTS / "metrics"  # <model>.json
RANKINGS = EXPERIMENTS / "rankings"  # <model>.parquet
TUNED = EXPERIMENTS / "tuned"
BENCHMARKS = PROJECT / OUT / "benchmarks"
WORKSPACES = OUT / "workspaces"  # of the project: <dataset>
TORCHSERVE = PROJECT / OUT / "serving" / "torchserve"  # archives, logs and snapshots of the server

STATE = "TIDEGATE_STATE"
KEYS = "keys"  # in the state folder: private keys that sign, and the trusted public keys
SQLITE_LOCK_SECONDS = 60  # how long a process waits for another one; the default of 5 s is short
COLLECT = "collect"  # in the state folder: what the event collector keeps
PARTITIONS = "events"  # in it: the daily partitions
DEPLOYMENTS = "deployments"  # in it: deployment log, rollout stage, and the newest decisions and looks seen


def state() -> Path:
    """The folder of what must never be lost: $TIDEGATE_STATE, or `state/` in the project."""
    return Path(os.environ.get(STATE) or PROJECT / "state")


def backups() -> Path:
    """Where `make backup` writes unless another place is given."""
    return PROJECT / "backups"


def mlflow_database() -> Path:
    """Runs, models and aliases; their artifacts lie next to it in `mlartifacts/`."""
    return state() / "mlflow.db"


def studies_database() -> Path:
    """Optuna's studies: a study's budget is time, so it cannot be repeated exactly."""
    return state() / "studies.db"


def online_store() -> str:
    """URL of the embedded online store."""
    return f"sqlite:///{(state() / 'online.db').resolve()}"


def training_consent(dataset: str) -> Path:
    """The file that exists once a version of a dataset had a column of consent to training."""
    return state() / "training_consent" / dataset


def edge() -> Path:
    """API keys, served log and kept requests of the edge."""
    return state() / "edge"


def collect() -> Path:
    """Event log, daily partitions, rejected events and write keys of the event collector."""
    return state() / COLLECT


def user_keys() -> Path:
    """Keys of the pseudonyms in the served log: not in the folder of the log that they protect."""
    return state() / KEYS / "users"


def sqlite_url(path: Path) -> str:
    """The SQLAlchemy URL of a SQLite file, for MLflow and Optuna.

    A path with special characters is quoted with its slashes: MLflow creates the folder that an unquoted path names.
    """
    text = str(path.resolve())
    plain = quote(text, safe="/ ") == text
    return f"sqlite:///{text if plain else quote(text, safe='')}?timeout={SQLITE_LOCK_SECONDS}"


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLAlchemy URL; None if it is not a SQLite file's."""
    _, scheme, path = url.partition("sqlite:///")
    return Path(unquote(path.partition("?")[0])) if scheme and url.startswith(scheme) else None
