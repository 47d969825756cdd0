"""An Optuna study that outlives the processes that work on it: what is searched, where it is stored, its trials."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import socket
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

import numpy as np
import psutil
from filelock import FileLock

from config import params
from config.command import UserError
from config.paths import SQLITE_LOCK_SECONDS, sqlite_file, sqlite_url, studies_database
from config.redact import redact
from features import fit
from features.feature_files import Features
from features.fit import SplitTables

VARIABLE = "TIDEGATE_STUDY_STORAGE"
HEARTBEAT_SECONDS, GRACE_SECONDS = 30, 150  # a worker without a heartbeat for this long counts as dead
OPEN_RETRIES = (0.5, 1, 2)  # seconds between attempts to open the database of a server
DEFAULTS = "defaults"  # marks the trial with the values of params.yaml
UNCLAIMED = timedelta(minutes=1)  # a process names itself in its trial at once
DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {
    "accuracy": "maximize",
    "diversity": "maximize",
    "latency": "minimize",
}


@dataclass(frozen=True)
class Search:
    """What all trials of one call share.

    Attributes:
        features: of the validation period.
        parent: id of the MLflow run that holds the trials' runs.
        folds: features of each period that a trial is scored on, oldest first.
    """

    label: str
    features: Features
    settings: params.Params
    parent: str
    folds: list[Features]

    @classmethod
    def of(cls, label: str, features: Features, settings: params.Params, parent: str) -> Search:
        return cls(label, features, settings, parent, fold_features(features, settings))


def fold_features(features: Features, settings: params.Params) -> list[Features]:
    """Features of each period, oldest first; for one fold those of the validation period as they are."""
    if settings.tune.folds == 1:
        return [features]
    tables = SplitTables.read()
    return [fit.fit_window(tables, *period, settings) for period in fold_periods(tables, settings)]


def fold_periods(tables: SplitTables, settings: params.Params) -> list[tuple[int, int]]:
    """(start, stop) in microseconds of each fold's period, oldest first. Raises UserError if history is too short."""
    count = settings.tune.folds
    periods = fit.rolling_windows(tables, count)
    if len(periods) < count:
        raise UserError(
            f"tune.folds is {count}; expected at most {max(1, len(periods))}: before a further period there are fewer "
            "events than in it"
        )
    return periods


def storage_url() -> str:
    """The URL of the study storage; workers and machines with the same URL share their studies.

    TIDEGATE_STUDY_STORAGE is a database URL (`postgresql://user@host/name`), `redis://host/0` or `journal:FILE`. It
    cannot change a result, so it is not in params.yaml. By default it is a SQLite file.
    """
    url = os.environ.get(VARIABLE)
    if not url:
        studies_database().parent.mkdir(parents=True, exist_ok=True)
        return sqlite_url(studies_database())
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url)


def open_storage(url: str):
    """Open the Optuna storage at a URL. Raises UserError if it cannot be opened.

    A database has a heartbeat, which shows that a trial's machine has died. A journal has none: such a trial stays
    marked as running until the same machine works on the study again.
    """
    from optuna.storages import JournalStorage, journal

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the heartbeat is marked as experimental
            if url.startswith("journal:"):
                return JournalStorage(journal.JournalFileBackend(url.removeprefix("journal:")))
            if url.startswith("redis"):
                return JournalStorage(journal.JournalRedisBackend(url))
            return _open_database(url)
    except Exception as error:  # each driver has its own exceptions
        reason = redact(" ".join(str(error.__cause__ or error).split()))[:200]
        raise UserError(f"{VARIABLE}: {redact(url)} cannot be opened: {reason}") from None


def _open_database(url: str):
    """Open a database, creating its tables if it is new.

    Optuna looks for its tables before it creates them, so of several processes that open a new database at once only
    one succeeds. SQLite files are opened one at a time. A server is tried again until the others are done.
    """
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import IntegrityError, ProgrammingError

    def open_once(connect: dict[str, float]):
        engine = {"connect_args": connect, "pool_pre_ping": True}
        return RDBStorage(url, engine, heartbeat_interval=HEARTBEAT_SECONDS, grace_period=GRACE_SECONDS)

    if database := sqlite_file(url):
        if not database.parent.is_dir():
            raise FileNotFoundError(f"{database.parent} does not exist")
        with FileLock(f"{database}.lock", SQLITE_LOCK_SECONDS):
            return open_once({"timeout": SQLITE_LOCK_SECONDS})
    for seconds in OPEN_RETRIES:
        with suppress(IntegrityError, ProgrammingError):  # what another process has created meanwhile
            return open_once({})
        time.sleep(seconds)
    return open_once({})


def study_name(label: str, features: Features, settings: params.Params) -> str:
    """One name for trials that can be compared: the same data, model, spaces, objectives, periods and trial length."""
    train, tune = settings.train, settings.tune
    identity = [
        features.description,
        train.models[label].model_dump(),
        {name: space.model_dump() for name, space in tune.spaces[label].items()},
        [tune.max_steps, tune.folds, settings.seed, train.seed, train.early_stopping_cases, train.validation_cases],
        tune.objectives,
    ]
    digest = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=4).hexdigest()
    return f"{settings.dataset}/{label}/{features.description['split_id']}/{digest}"


def open_study(
    name: str, url: str, seed: int, worker: int = 0, workers: int = 1, objectives: Sequence[str] = ("accuracy",)
):
    """Open or create the study of a name.

    Args:
        objectives: the values of each trial, accuracy first.
        seed: decides what is tried, together with the number of trials so far and the worker. Otherwise a resumed study
            would repeat its first values, and two workers would try the same.
        worker: number of this worker among `workers`. Several workers count each other's running trials as bad
            (constant liar), so that they search in different places.
    """
    import optuna

    # The end of a trial is one line of ours; Optuna would show a traceback for each that failed.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name=name,
        storage=open_storage(url),
        directions=[DIRECTIONS[objective] for objective in objectives],
        pruner=optuna.pruners.MedianPruner(),
        load_if_exists=True,
    )
    sampler_seed = int(np.random.SeedSequence([seed, len(study.trials), worker]).generate_state(1)[0])
    study.sampler = optuna.samplers.TPESampler(seed=sampler_seed, constant_liar=workers > 1)
    return study


def enqueue_defaults(study, label: str, settings: params.Params) -> None:
    """Let the next trial use the values of params.yaml, unless they were measured: they are what others must beat."""
    known = study.get_trials(deepcopy=False)
    if not any(DEFAULTS in trial.user_attrs and trial.state.name not in ("FAIL", "PRUNED") for trial in known):
        configuration = settings.train.models[label].model_dump()
        values = {name: configuration[name] for name in settings.tune.spaces[label]}
        study.enqueue_trial(values, user_attrs={DEFAULTS: True})


def this_process() -> list:
    """Host, process id and start time: they identify this process, also against a later one with the same id."""
    return [socket.gethostname(), os.getpid(), psutil.Process().create_time()]


def has_ended(process: list) -> bool:
    """Whether a process of this machine has ended. Only the storage's heartbeat can tell for another machine."""
    host, number, started = process
    if host != socket.gethostname():
        return False
    try:
        running = psutil.Process(number)
        return abs(running.create_time() - started) > 1 or running.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def fail_dead_trials(study) -> list[int]:
    """Mark trials whose process was killed as failed; return their numbers."""
    from optuna.trial import TrialState

    def is_dead(trial) -> bool:
        if process := trial.user_attrs.get("process"):
            return has_ended(process)
        return datetime.now() - trial.datetime_start > UNCLAIMED

    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    dead = [trial.number for trial in running if is_dead(trial)]
    for number in dead:
        study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
    return dead


def started_trials(study) -> list:
    """The trials that have started, oldest first."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name != "WAITING"]


def completed_trials(study) -> list:
    """The trials that were measured, oldest first."""
    return [trial for trial in study.trials if trial.values is not None and trial.state.name == "COMPLETE"]


def trial_accuracy(trial) -> float:
    """The first objective of a completed trial."""
    return trial.values[0]


def best_trial(study):
    """The most accurate completed trial, the first of equals."""
    return max(completed_trials(study), key=trial_accuracy)


def pareto_front(study) -> list:
    """The completed trials that no other beats in every objective, the most accurate first."""
    return sorted(study.best_trials, key=trial_accuracy, reverse=True)


def defaults_accuracy(study) -> float | None:
    """The accuracy with the values of params.yaml; None if they could not be fitted."""
    return next((trial_accuracy(trial) for trial in completed_trials(study) if DEFAULTS in trial.user_attrs), None)


def values_text(values: dict) -> str:
    """`dropout 0.12, heads 4`."""
    shown = {name: f"{value:.3g}" if isinstance(value, float) else str(value) for name, value in values.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())


def parse_minutes(text: str, name: str) -> float:
    """Parse a number of minutes above 0. The UserError about another text starts with `name`, the option."""
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not 0 < minutes < math.inf:
        raise UserError(f"{name} is {text!r}; expected a number of minutes above 0")
    return minutes


@dataclass
class Budget:
    """How many more trials may start; `trials` of None limits only the time."""

    trials: int | None
    seconds: float

    def __post_init__(self) -> None:
        self.deadline = time.time() + self.seconds  # wall clock, since other processes read it
        self.started = False

    @property
    def seconds_left(self) -> float:
        return max(0.0, self.deadline - time.time())

    def take(self) -> bool:
        """Take one trial from the budget; False if none is left. The first is granted however little time there is."""
        if self.trials == 0 or (self.started and self.seconds_left == 0):
            return False
        self.started = True
        if self.trials is not None:
            self.trials -= 1
        return True

    def __str__(self) -> str:
        trials = "" if self.trials is None else f"{self.trials} trial{'' if self.trials == 1 else 's'} and "
        return f"{trials}{self.seconds_left / 60:.1f} minutes left"
