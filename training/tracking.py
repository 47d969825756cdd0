"""The one file that talks to MLflow while training."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import params
from features.store import Features
from training import provenance, views
from training.tracked_run import NOTE, TrainingRun, as_text, carried_through

if TYPE_CHECKING:
    from mlflow import MlflowClient

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before MLflow is imported: nothing reports home
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

DATABASE = Path("experiments/out/mlflow.db")


def tracking_uri() -> str:
    """Where runs go: MLFLOW_TRACKING_URI, or SQLite in this project."""
    if "MLFLOW_TRACKING_URI" in os.environ:
        return os.environ["MLFLOW_TRACKING_URI"]
    DATABASE.parent.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{DATABASE.resolve()}"


def connected() -> MlflowClient:
    """A client of the tracking store. A new database is filled by one process at a time: two would both make tables."""
    from mlflow import MlflowClient

    uri = tracking_uri()
    if not uri.startswith("sqlite:///"):
        return MlflowClient(uri)
    database = Path(uri.removeprefix("sqlite:///"))
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return MlflowClient(uri)


def experiment_of(client, dataset: str) -> str:
    """Id of the data set's experiment, made where there is none, with its description and saved views.

    On SQLite its artifacts lie beside the database; MLflow's default is ./mlruns, wherever one stands.
    """
    found = client.get_experiment_by_name(dataset) or _made(client, dataset)
    experiment_id, known = found.experiment_id, found.tags
    for key, value in views.experiment_tags(experiment_id, dataset).items():
        if key not in known and views.VERSION not in known:  # what a person has edited or removed stays so
            client.set_experiment_tag(experiment_id, key, value)
    return experiment_id


def _made(client, dataset: str):
    """A new experiment, or the one that another process has made meanwhile."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_experiment(dataset, artifact_location=_beside_database(dataset))
    except MlflowException:
        if client.get_experiment_by_name(dataset) is None:
            raise
    return client.get_experiment_by_name(dataset)


def _beside_database(dataset: str) -> str | None:
    uri = tracking_uri()
    if not uri.startswith("sqlite:///"):
        return None
    return (Path(uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts" / dataset).as_uri()


@contextmanager
def training_run(label: str, recipe: dict, features: Features, settings: params.Params) -> Iterator[TrainingRun]:
    """Open a run in the experiment named after the data set; a failure is marked as such, with its reason."""
    description = features.description
    cut = description["cut"]
    tags = {
        "stage": "train",
        "cut": cut,
        "label": label,
        "model": recipe["name"],
        "split_id": description["split_id"],
        "dataset_hash": description["dataset_hash"],
        NOTE: views.PURPOSE[cut].format(label=label, dataset=settings.dataset),
    }
    run = open_run(settings.dataset, f"{label} · {cut}", tags, recipe)
    with carried_through(run, features):
        yield run


def open_run(
    dataset: str, name: str, tags: dict[str, str], recipe: dict | None = None, verb: str = "training.train"
) -> TrainingRun:
    """A new run in the experiment of the data set, with its tags and params; the caller closes it."""
    client = connected()
    commit = provenance.commit()
    made_by = {"mlflow.source.name": verb, "mlflow.source.type": "LOCAL", "mlflow.source.git.commit": commit}
    tags = {"dataset": dataset, "commit": commit, **made_by, **tags}
    made = client.create_run(experiment_of(client, dataset), run_name=name, tags=tags)
    run = TrainingRun(client, made.info.run_id, {key: as_text(value) for key, value in (recipe or {}).items()})
    run.log_params(recipe or {})
    return run


def unfinished(dataset: str, tags: dict[str, str]) -> list[tuple[TrainingRun, dict[str, str]]]:
    """Runs with these tags that have not ended, each with all of its tags."""
    client = connected()
    wanted = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
    query = " and ".join(["attributes.status = 'RUNNING'", *wanted])
    found = client.search_runs([experiment_of(client, dataset)], query)
    return [(TrainingRun(client, run.info.run_id), run.data.tags) for run in found]


def reopened(run_id: str) -> TrainingRun | None:
    """A run of an earlier stage, to log more into; None where it is gone (or the product was pulled)."""
    from mlflow.exceptions import MlflowException

    client = connected()
    try:
        active = client.get_run(run_id).info.lifecycle_stage == "active"
    except MlflowException:
        return None
    return TrainingRun(client, run_id) if active else None
