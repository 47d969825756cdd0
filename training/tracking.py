"""The one file that talks to MLflow while training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import params
from features.store import Features
from training import provenance

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before MLflow is imported: nothing reports home

DATABASE = Path("experiments/out/mlflow.db")


def tracking_uri() -> str:
    """Where runs go: MLFLOW_TRACKING_URI, or SQLite in this project."""
    if "MLFLOW_TRACKING_URI" in os.environ:
        return os.environ["MLFLOW_TRACKING_URI"]
    DATABASE.parent.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{DATABASE.resolve()}"


def experiment_of(client, dataset: str) -> str:
    """Id of the data set's experiment, made where there is none.

    On SQLite its artifacts lie beside the database; MLflow's default is ./mlruns, wherever one stands.
    """
    found = client.get_experiment_by_name(dataset)
    if found:
        return found.experiment_id
    uri = tracking_uri()
    if not uri.startswith("sqlite:///"):
        return client.create_experiment(dataset)
    beside = Path(uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts"
    return client.create_experiment(dataset, artifact_location=(beside / dataset).as_uri())


class TrainingRun:
    """An open MLflow run of one fit."""

    def __init__(self, client, run_id: str) -> None:
        self._client, self.run_id = client, run_id

    def log_epoch(self, row: dict) -> None:
        """One row of the learning curve: numbers by name, `step` among them."""
        step = int(row["step"])
        self.log_metrics({name: value for name, value in row.items() if name != "step"}, step)

    def log_metrics(self, metrics: dict[str, float], step: int = 0) -> None:
        from mlflow.entities import Metric

        entries = [Metric(name, float(value), _now_ms(), step) for name, value in metrics.items()]
        self._client.log_batch(self.run_id, metrics=entries)

    def close(self, status: str = "FINISHED") -> None:
        """End the run."""
        self._client.set_terminated(self.run_id, status)

    def log_fit(self, result) -> None:
        """What the fit chose, how long it took, how it did on validation."""
        from mlflow.entities import Param

        chosen = [Param(f"chosen.{name}", str(value)) for name, value in result.recipe.items()]
        self._client.log_batch(self.run_id, params=chosen)
        scores = {f"valid/{target}/ndcg_10": value for target, value in result.validation.items()}
        self.log_metrics({"fit_seconds": result.seconds} | scores)


def _now_ms() -> int:
    import time

    return int(time.time() * 1000)


@contextmanager
def training_run(label: str, recipe: dict, features: Features, settings: params.Params) -> Iterator[TrainingRun]:
    """Open a run in the experiment named after the data set; failures are marked as such."""
    cut = features.description["cut"]
    tags = {
        "model": label,
        "cut": cut,
        "dataset": settings.dataset,
        "split_id": features.description["split_id"],
        "dataset_hash": features.description["dataset_hash"],
    }
    run = open_run(settings.dataset, f"{label} ({cut})", tags, recipe)
    try:
        yield run
    except BaseException:
        run.close("FAILED")
        raise
    run.close()


def open_run(dataset: str, name: str, tags: dict[str, str], recipe: dict | None = None) -> TrainingRun:
    """A new run in the experiment of the data set, with its tags and params; the caller closes it."""
    from mlflow import MlflowClient
    from mlflow.entities import Param

    client = MlflowClient(tracking_uri())
    tags = {"dataset": dataset, "commit": provenance.commit(), **tags}
    run = client.create_run(experiment_of(client, dataset), run_name=name, tags=tags)
    written = [Param(key, str(value)) for key, value in (recipe or {}).items()]
    client.log_batch(run.info.run_id, params=written)
    return TrainingRun(client, run.info.run_id)


def log_evaluation(facts: dict) -> None:
    """Test metrics of one model into the run that trained it; a run that is gone is passed over."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri())
    metrics = {}
    for target, found in facts["targets"].items():
        for key, entry in found["metrics"].items():
            value = entry.get("mean", entry.get("value"))
            if value is not None:
                metrics[f"test/{target}/{key.replace('@', '_')}"] = value
    try:
        TrainingRun(client, facts["run_id"]).log_metrics(metrics)
    except MlflowException:
        return  # pulled from a remote: the numbers stand in the metrics file all the same
