"""The one file that talks to MLflow while training."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import params
from features.store import Features

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before MLflow is imported: nothing reports home

DATABASE = Path("experiments/out/mlflow.db")


def tracking_uri() -> str:
    """Where runs go: MLFLOW_TRACKING_URI, or SQLite in this project."""
    if "MLFLOW_TRACKING_URI" in os.environ:
        return os.environ["MLFLOW_TRACKING_URI"]
    DATABASE.parent.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{DATABASE.resolve()}"


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
    from mlflow import MlflowClient
    from mlflow.entities import Param

    client = MlflowClient(tracking_uri())
    cut = features.description["cut"]
    experiment = client.get_experiment_by_name(settings.dataset)
    experiment_id = experiment.experiment_id if experiment else client.create_experiment(settings.dataset)
    tags = {
        "model": label,
        "cut": cut,
        "dataset": settings.dataset,
        "split_id": features.description["split_id"],
        "dataset_hash": features.description["dataset_hash"],
    }
    run = client.create_run(experiment_id, run_name=f"{label} ({cut})", tags=tags)
    client.log_batch(run.info.run_id, params=[Param(name, str(value)) for name, value in recipe.items()])
    try:
        yield TrainingRun(client, run.info.run_id)
    except BaseException:
        client.set_terminated(run.info.run_id, "FAILED")
        raise
    client.set_terminated(run.info.run_id)


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
