"""Log fits to MLflow: the tracking store, the experiment of a dataset, and the run of one fit."""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import shlex
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote

from filelock import FileLock

from config import params
from config.command import UserError
from config.paths import INGESTED, SQLITE_LOCK_SECONDS, mlflow_database, sqlite_file, sqlite_url
from config.redact import redact
from features.feature_files import Features
from training import mlflow_views, plots, provenance

if TYPE_CHECKING:
    from mlflow import MlflowClient

# MLflow reads the first and last when it is imported, which the functions below do: it takes seconds.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # of each run that ends
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

if "%" in (_packages := sysconfig.get_path("purelib")):
    # MLflow's migrations cannot run from a path with a % (Alembic reads its settings by configparser): import it by a link.
    _link = tempfile.TemporaryDirectory(prefix="tidegate-")  # removed when the process ends
    (Path(_link.name) / "packages").symlink_to(_packages)
    sys.path.insert(0, f"{_link.name}/packages")

DVC_LOCK = Path("dvc.lock")
DIGEST_LENGTH = 36  # MLflow's limit
ERROR_LENGTH = 500  # of the tag that says why a run failed
SERVER_CREDENTIALS = re.compile(r"(https?://)([^/?#:@]+):([^/?#]+)@(.*)")
NOTE = "mlflow.note.content"  # what the UI shows as the description of a run


class TrackingError(UserError):
    """MLflow cannot do what was requested; the text says why, and what helps."""


def tracking_uri() -> str:
    """Where runs are kept: MLFLOW_TRACKING_URI, or SQLite in the state folder.

    User and password of a server move to the variables that MLflow and child processes read, because MLflow prints URLs.
    """
    if found := SERVER_CREDENTIALS.fullmatch(os.environ.get("MLFLOW_TRACKING_URI", "")):
        os.environ["MLFLOW_TRACKING_URI"] = found[1] + found[4]
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(found[2])
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(found[3])
    uri = os.environ.get("MLFLOW_TRACKING_URI") or sqlite_url(mlflow_database())
    return f"{uri}?timeout={SQLITE_LOCK_SECONDS}" if sqlite_file(uri) and "?" not in uri else uri


def _database() -> Path | None:
    """The SQLite file of the tracking store; None where runs are kept elsewhere."""
    file = sqlite_file(tracking_uri())
    return file.resolve() if file else None


def connect(error: type[UserError] = TrackingError) -> MlflowClient:
    """A client of the tracking store whose calls raise `error`, in one line, where MLflow refuses them.

    One process at a time fills a new database: two would both create tables.
    """
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs what it raises, with a traceback
    with mlflow_errors("MLflow cannot be used", error):
        from mlflow import MlflowClient

        database = _database()
        if database is None:
            return cast(MlflowClient, _Client(MlflowClient(tracking_uri()), error))
        database.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(database.with_suffix(".lock")):
            return cast(MlflowClient, _Client(MlflowClient(tracking_uri()), error))


class _Client:
    """An MlflowClient whose calls raise an error of ours."""

    def __init__(self, client: MlflowClient, error: type[UserError]) -> None:
        self._client, self._error = client, error

    def __getattr__(self, name: str):
        method = getattr(self._client, name)

        @functools.wraps(method)
        def call(*arguments, **options):
            with mlflow_errors(f"MLflow refuses {name}", self._error):
                return method(*arguments, **options)

        return call


@contextmanager
def mlflow_errors(problem: str, error: type[UserError] = TrackingError) -> Iterator[None]:
    """Raise errors of MLflow and its database in the block as `error`, in one line that begins with the problem."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as caught:
        raise error(f"{problem}: {_reason(str(caught))}") from caught


def is_missing(error: UserError) -> bool:
    """Whether an error of `mlflow_errors` says that what was requested does not exist."""
    return getattr(error.__cause__, "error_code", None) == "RESOURCE_DOES_NOT_EXIST"


def _reason(text: str) -> str:
    """The first line of an error of MLflow, and what helps."""
    file = _database()
    if "database is locked" in text:
        return f"another process keeps {file} locked; try again when it has ended"
    if "out-of-date database schema" in text:
        return f"{file} is of another version of MLflow; copy it, then run `{_mlflow_command('db upgrade')}`"
    if "not a database" in text or "malformed" in text:
        return f"{file} is damaged; restore it from a backup, or move it away to begin anew"
    if deleted := re.search(r"The (run|experiment) (\w+) must be in the 'active' state", text):
        return _deleted(deleted[1], deleted[2])
    return redact(" ".join(text.partition("\n")[0].split()))[:300]


def _deleted(kind: str, number: str) -> str:
    command = _mlflow_command(f"{kind}s restore --{kind}-id {number}")
    return f"the {kind} {number} was deleted in MLflow; `{command}` restores it"


def _mlflow_command(arguments: str) -> str:
    """A command line of MLflow's own tool on this store."""
    uri = shlex.quote(tracking_uri()) if redact(tracking_uri()) == tracking_uri() else '"$MLFLOW_TRACKING_URI"'
    if arguments.startswith("db "):
        return f".venv/bin/mlflow {arguments} {uri}"
    return f"MLFLOW_TRACKING_URI={uri} .venv/bin/mlflow {arguments}" if _database() else f".venv/bin/mlflow {arguments}"


def experiment_id(client: MlflowClient, dataset: str) -> str:
    """Id of the dataset's experiment; created if there is none, with its description and saved views.

    On SQLite its artifacts lie next to the database; MLflow's default is ./mlruns.

    Raises:
        TrackingError: it was deleted in MLflow, which keeps its name.
    """
    if (known := _active_experiment(client, dataset)) is not None:
        return known
    database = _database()
    location = (database.parent / "mlartifacts" / dataset).as_uri() if database else None
    try:
        created = client.create_experiment(dataset, artifact_location=location)
    except UserError:
        if (known := _active_experiment(client, dataset)) is not None:  # another process has just created it
            return known
        raise
    # Tags are written once: what a person edits or removes stays so.
    for key, value in mlflow_views.experiment_tags(created, dataset).items():
        client.set_experiment_tag(created, key, value)
    return created


def _active_experiment(client: MlflowClient, dataset: str) -> str | None:
    experiment = client.get_experiment_by_name(dataset)
    if experiment is not None and experiment.lifecycle_stage == "deleted":
        raise TrackingError(f"{dataset}: {_deleted('experiment', experiment.experiment_id)}")
    return None if experiment is None else experiment.experiment_id


@contextmanager
def training_run(
    label: str, hyperparameters: dict, features: Features, settings: params.Params
) -> Iterator[TrainingRun]:
    """Open a run of a fit in the dataset's experiment, and close it after the block; see `closing`."""
    description = features.description
    cut = description["cut"]
    tags = {name: description[name] for name in ("cut", "split_id", "dataset_hash")}
    tags |= {"stage": "train", "label": label, "model": hyperparameters["name"]}
    tags[NOTE] = mlflow_views.PURPOSE[cut].format(label=label, dataset=settings.dataset)
    run = start_run(settings.dataset, f"{label} · {cut}", tags, hyperparameters)
    with closing(run, features):
        yield run


def start_run(
    dataset: str, name: str, tags: dict[str, str], hyperparameters: dict | None = None, source: str = "training.train"
) -> TrainingRun:
    """Start a run in the dataset's experiment, with its tags and parameters; the caller closes it."""
    client = connect()
    commit = provenance.commit()
    made_by = {"mlflow.source.name": source, "mlflow.source.type": "LOCAL", "mlflow.source.git.commit": commit}
    tags = {"dataset": dataset, "commit": commit, **made_by, **tags}
    started = client.create_run(experiment_id(client, dataset), run_name=name, tags=tags)
    logged = {key: param_text(value) for key, value in (hyperparameters or {}).items()}
    run = TrainingRun(client, started.info.run_id, logged)
    run.log_params(hyperparameters or {})
    return run


def unfinished_runs(dataset: str, tags: dict[str, str]) -> list[tuple[TrainingRun, dict[str, str]]]:
    """Runs with these tags that have not ended, each with all of its tags."""
    client = connect()
    conditions = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
    query = " and ".join(["attributes.status = 'RUNNING'", *conditions])
    found = client.search_runs([experiment_id(client, dataset)], query)
    return [(TrainingRun(client, run.info.run_id), run.data.tags) for run in found]


def reopen_run(run_id: str) -> TrainingRun | None:
    """A run of an earlier stage, to log more into; None where it no longer exists."""
    client = connect()
    try:
        active = client.get_run(run_id).info.lifecycle_stage == "active"
    except TrackingError as error:
        if is_missing(error):
            return None
        raise
    return TrainingRun(client, run_id) if active else None


class TrainingRun:
    """An open MLflow run of one fit; `logged` are the parameters that it was started with, as text."""

    def __init__(self, client: MlflowClient, run_id: str, logged: dict[str, str] | None = None) -> None:
        self.client, self.run_id, self._logged = client, run_id, logged or {}

    def log_epoch(self, row: dict) -> None:
        """Log one row of the learning curve: numbers by name, `step` among them.

        Validation is logged under `early_stopping/`. MLflow shows the last value of a metric, and for `valid/` that
        must be the score of the finished fit, which rests on more cases and on the weights of the best epoch.
        """
        names = [name for name in row if name not in ("step", "epoch")]
        metrics = {name.replace("valid/", "early_stopping/", 1): row[name] for name in names}
        self.log_metrics(metrics, row["step"])

    def log_fit(self, result) -> None:
        """Log what a `FitResult` chose beyond the logged parameters, its time, its curve and its validation scores."""
        texts = {name: param_text(value) for name, value in result.hyperparameters.items()}
        new = {name: text for name, text in texts.items() if name not in self._logged}
        chosen = {f"chosen.{name}": text for name, text in texts.items() if self._logged.get(name, text) != text}
        self.log_params(new | chosen)
        scores = {f"valid/{target}/ndcg_10": value for target, value in result.validation.items()}
        self.log_metrics({"fit_seconds": result.seconds} | scores)
        if len(result.curves) > 1:
            figure = plots.learning_curve(result.curves, result.hyperparameters.get("best_steps"))
            self.log_figure(figure, "learning_curve")

    def log_metrics(self, metrics: dict[str, float], step: int = 0) -> None:
        """Log numbers by name, all in one request."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        entries = [Metric(name, float(value), now, step) for name, value in metrics.items()]
        self.client.log_batch(self.run_id, metrics=entries)

    def log_params(self, values: Mapping[str, object]) -> None:
        """Log parameters by name, written as in params.yaml. MLflow does not let a logged one change."""
        from mlflow.entities import Param

        entries = [Param(name, param_text(value)) for name, value in values.items()]
        self.client.log_batch(self.run_id, params=entries)

    def log_figure(self, figure, name: str) -> None:
        """Log a Matplotlib figure as the artifact plots/<name>.png."""
        self.client.log_figure(self.run_id, figure, f"plots/{name}.png")

    def log_json(self, content: dict, name: str) -> None:
        """Log a dictionary as the artifact <name>.json."""
        self.client.log_dict(self.run_id, content, f"{name}.json")

    def tag(self, **tags: str) -> None:
        """Set tags; `note` is the description that the UI shows in Markdown."""
        for key, value in tags.items():
            self.client.set_tag(self.run_id, NOTE if key == "note" else key, value)

    def close(self, status: str = "FINISHED") -> None:
        """End the run."""
        self.client.set_terminated(self.run_id, status)


@contextmanager
def closing(
    run: TrainingRun, features: Features | None = None, gave_up: tuple[type[BaseException], ...] = ()
) -> Iterator[TrainingRun]:
    """Close a run at the end of the block; if the block fails, mark the run so, with the reason as a tag.

    The exceptions in `gave_up` end the run as KILLED, since nothing went wrong. Features are logged as the run's input.
    """
    try:
        if features is not None:
            run.client.log_inputs(run.run_id, [_dataset_input(features)])
        yield run
    except BaseException as error:
        with suppress(TrackingError):  # such as that the run was deleted, which may be the error itself
            run.tag(error=redact(" ".join(f"{type(error).__name__}: {error}".split()))[:ERROR_LENGTH])
            run.close("KILLED" if isinstance(error, gave_up) else "FAILED")
        raise
    run.close()


def param_text(value: object) -> str:
    """A parameter as a person writes it in params.yaml: `all, window_1d`, `null`, `200` for 200.0."""
    if isinstance(value, list | tuple):
        return ", ".join(map(param_text, value))
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _dataset_input(features: Features):
    """An mlflow.entities.DatasetInput: the dataset, and `training (<cut>)` as its use.

    MLflow keeps one dataset per name and digest, so its description must not depend on the cut.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    description = features.description
    md5 = _dvc_hash()
    version = {"dvc_md5": md5} if md5 else {"dataset_hash": description["dataset_hash"]}
    manifest, profile = INGESTED / "manifest.json", version
    if manifest.exists():
        counts = json.loads(manifest.read_text(encoding="utf-8"))["counts"]
        profile = {"num_rows": counts["events"], "num_users": counts["users"], "num_items": counts["items"]} | version
    dataset = Dataset(
        name=description["dataset"],
        digest=description["dataset_hash"][:DIGEST_LENGTH],
        source_type="dvc" if md5 else "local",
        source=json.dumps({"uri": INGESTED.as_posix(), **version}),
        profile=json.dumps(profile),  # the UI shows no source of this type, but all of the profile
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", f"training ({description['cut']})")])


def _dvc_hash() -> str | None:
    """The md5 of out/data/ingest in dvc.lock, by which `dvc pull` finds it; None where DVC has not run."""
    import yaml

    if not DVC_LOCK.exists():
        return None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml reads a long lock file ten times as fast
    stages = (yaml.load(DVC_LOCK.read_text(encoding="utf-8"), loader) or {}).get("stages", {})
    outs = stages.get("ingest", {}).get("outs", [])
    return next((out["md5"] for out in outs if out["path"] == INGESTED.as_posix()), None)
