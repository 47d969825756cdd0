"""The one file that talks to MLflow while training."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from config import params
from config.paths import INGESTED, mlflow_database
from features.feature_files import Features
from training import mlflow_views, plots, provenance

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
    """The md5 of out/data/ingest as it stands in dvc.lock, by which `dvc pull` finds it; None where DVC has not run."""
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


NOTE = "mlflow.note.content"  # what the UI shows as the description of a run


class TrainingRun:
    """An open MLflow run of one fit."""

    def __init__(self, client, run_id: str, asked: dict[str, str] | None = None) -> None:
        self._client, self.run_id, self._asked = client, run_id, asked or {}

    def log_epoch(self, row: dict) -> None:
        """One row of the learning curve: numbers by name, `step` among them.

        Validation goes under `early_stopping/`: MLflow shows the last value that a metric had, and for `valid/`
        this has to be the score of the finished fit, which rests on more cases and on the best epoch's weights.
        """
        shown = {name: value for name, value in row.items() if name not in ("step", "epoch")}
        self.log_metrics({_curve_name(name): value for name, value in shown.items()}, int(row["step"]))

    def log_metrics(self, metrics: dict[str, float], step: int = 0) -> None:
        """Numbers by name, all in one request."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entries = [Metric(name, float(value), now, step) for name, value in metrics.items()]
        self._client.log_batch(self.run_id, metrics=entries)

    def log_params(self, values: Mapping[str, object]) -> None:
        """Parameters by name, written as params.yaml writes them; one already logged cannot change."""
        from mlflow.entities import Param

        entries = [Param(name, as_text(value)) for name, value in values.items()]
        self._client.log_batch(self.run_id, params=entries)

    def log_input(self, features: Features) -> None:
        """The data set version that these features were made of, as a logged input."""
        self._client.log_inputs(self.run_id, [dataset_input(features)])

    def log_figure(self, figure, name: str) -> None:
        """A Matplotlib figure as the artifact plots/<name>.png."""
        self._client.log_figure(self.run_id, figure, f"plots/{name}.png")

    def log_json(self, content: dict, name: str) -> None:
        """A dictionary as the artifact <name>.json."""
        self._client.log_dict(self.run_id, content, f"{name}.json")

    def tag(self, **tags: str) -> None:
        """Set tags; `note` is the description that the UI shows in Markdown."""
        for key, value in tags.items():
            self._client.set_tag(self.run_id, NOTE if key == "note" else key, value)

    def close(self, status: str = "FINISHED") -> None:
        """End the run."""
        self._client.set_terminated(self.run_id, status)

    def fail(self, error: BaseException, status: str = "FAILED") -> None:
        """End the run before its end, with the reason as a tag."""
        self.tag(error=" ".join(f"{type(error).__name__}: {error}".split())[:500])
        self.close(status)

    def log_fit(self, result) -> None:
        """What the fit chose beyond what was asked, how long it took, its curve, how it did on validation."""
        found = {name: as_text(value) for name, value in result.hyperparameters.items()}
        new = {name: value for name, value in found.items() if name not in self._asked}
        settled = {f"chosen.{name}": value for name, value in found.items() if self._asked.get(name, value) != value}
        self.log_params(new | settled)
        scores = {f"valid/{target}/ndcg_10": value for target, value in result.validation.items()}
        self.log_metrics({"fit_seconds": result.seconds} | scores)
        if len(result.curves) > 1:
            self.log_figure(
                plots.learning_curve(result.curves, result.hyperparameters.get("best_steps")), "learning_curve"
            )


@contextmanager
def carried_through(
    run: TrainingRun, features: Features | None = None, gave_up: tuple[type[BaseException], ...] = ()
) -> Iterator[TrainingRun]:
    """Close a run at the end of the block; where that fails, mark the run so, with the reason as a tag.

    Args:
        features: logged as the run's input.
        gave_up: exceptions that end the run as KILLED, since nothing went wrong.
    """
    try:
        if features is not None:
            run.log_input(features)
        yield run
    except BaseException as error:
        run.fail(error, "KILLED" if isinstance(error, gave_up) else "FAILED")
        raise
    run.close()


def _curve_name(name: str) -> str:
    return f"early_stopping/{name.removeprefix('valid/')}" if name.startswith("valid/") else name


def as_text(value: object) -> str:
    """A parameter as a person writes it in params.yaml: `all, window_1d`, `null`, `200` for 200.0."""
    if isinstance(value, list | tuple):
        return ", ".join(map(as_text, value))
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.15g}" if isinstance(value, float) else str(value)


if TYPE_CHECKING:
    from mlflow import MlflowClient

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before MLflow is imported: nothing reports home
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def tracking_uri() -> str:
    """Where runs go: MLFLOW_TRACKING_URI, or SQLite in the state folder."""
    if "MLFLOW_TRACKING_URI" in os.environ:
        return os.environ["MLFLOW_TRACKING_URI"]
    database = mlflow_database().resolve()
    database.parent.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{database}"


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
    for key, value in mlflow_views.experiment_tags(experiment_id, dataset).items():
        if key not in known and mlflow_views.VERSION not in known:  # what a person has edited or removed stays so
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
def training_run(
    label: str, hyperparameters: dict, features: Features, settings: params.Params
) -> Iterator[TrainingRun]:
    """Open a run in the experiment named after the data set; a failure is marked as such, with its reason."""
    description = features.description
    cut = description["cut"]
    tags = {
        "stage": "train",
        "cut": cut,
        "label": label,
        "model": hyperparameters["name"],
        "split_id": description["split_id"],
        "dataset_hash": description["dataset_hash"],
        NOTE: mlflow_views.PURPOSE[cut].format(label=label, dataset=settings.dataset),
    }
    run = open_run(settings.dataset, f"{label} · {cut}", tags, hyperparameters)
    with carried_through(run, features):
        yield run


def open_run(
    dataset: str, name: str, tags: dict[str, str], hyperparameters: dict | None = None, verb: str = "training.train"
) -> TrainingRun:
    """A new run in the experiment of the data set, with its tags and params; the caller closes it."""
    client = connected()
    commit = provenance.commit()
    made_by = {"mlflow.source.name": verb, "mlflow.source.type": "LOCAL", "mlflow.source.git.commit": commit}
    tags = {"dataset": dataset, "commit": commit, **made_by, **tags}
    made = client.create_run(experiment_of(client, dataset), run_name=name, tags=tags)
    run = TrainingRun(client, made.info.run_id, {key: as_text(value) for key, value in (hyperparameters or {}).items()})
    run.log_params(hyperparameters or {})
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
