"""A study that outlives the processes that work on it: what it is of, how it is opened, which trials are dead."""

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
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import psutil
from pydantic_settings import BaseSettings, SettingsConfigDict

from config import params, search_space
from config.command import UserError
from config.paths import studies_database
from experiments.tuning.objectives import DIRECTIONS
from features.feature_files import Features

VARIABLE = "TIDEGATE_STUDY_STORAGE"
PACKAGES = {"postgresql+psycopg:": "psycopg[binary]", "redis": "redis"}  # by how a URL begins
BEAT_SECONDS, SILENT_SECONDS = 30, 150  # a worker that has not been heard of for this long is taken for dead
LOCK_SECONDS = 60  # SQLite's own patience, 5 s, is little where several workers write


class StudySettings(BaseSettings):
    """Read from the environment: it says where, never what, so it is no part of params.yaml.

    `study_storage` is a database URL (`postgresql://user@host/name`), `redis://host/0` or `journal:FILE`.
    """

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_", env_ignore_empty=True, frozen=True, extra="ignore")

    study_storage: str | None = None


class StudyStorageError(UserError):
    """The storage cannot be opened; names the variable, and no password."""


def url_of() -> str:
    """The storage's URL; several workers and machines that read the same one work on the same studies."""
    stated = StudySettings().study_storage
    if stated is None:
        database = studies_database().resolve()
        database.parent.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{database}"
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", stated)


def open_storage(url: str):
    """The Optuna storage behind a URL.

    A database has a heartbeat, by which a trial is known to be dead whose machine is gone. A journal has none: such
    a trial stays marked as running until its own machine goes on with the study.

    Raises:
        StudyStorageError: the address is none, its driver is not installed, or nothing answers there.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the heartbeat is marked as experimental
            return _journal(url) if url.startswith(("redis", "journal:")) else _database(url)
    except ImportError:
        package = next((name for scheme, name in PACKAGES.items() if url.startswith(scheme)), "its database's driver")
        raise StudyStorageError(f"{_named(url)} needs a package that is not installed: {package}") from None
    except Exception as error:  # each driver has exceptions of its own
        said = " ".join(str(error.__cause__ or error).split())
        raise StudyStorageError(f"{_named(url)} cannot be opened: {without_password(said)[:200]}") from None


def _journal(url: str):
    from optuna.storages import JournalStorage, journal

    if url.startswith("journal:"):
        return JournalStorage(journal.JournalFileBackend(url.removeprefix("journal:")))
    return JournalStorage(journal.JournalRedisBackend(url))


def _database(url: str):
    try:
        return _tables(url)
    except ImportError:
        raise
    except Exception:  # another process was making the tables: now they are there
        time.sleep(1)
        return _tables(url)


def _tables(url: str):
    from optuna.storages import RDBStorage

    patience = {"connect_args": {"timeout": LOCK_SECONDS}} if url.startswith("sqlite") else {}
    return RDBStorage(
        url,
        engine_kwargs=patience | {"pool_pre_ping": True},
        heartbeat_interval=BEAT_SECONDS,
        grace_period=SILENT_SECONDS,
    )


def _named(url: str) -> str:
    return f"{VARIABLE}: {without_password(url)}"


def without_password(text: str) -> str:
    """A text in which no URL says its password."""
    return re.sub(r"://([^:/@\s]*):[^@\s]*@", r"://\1:***@", text)


DEFAULTS = "defaults"  # marks the trial of the values of params.yaml
UNCLAIMED = timedelta(minutes=1)  # a process names itself in its trial at once


def name_of(label: str, features: Features, settings: params.Params) -> str:
    """One name for trials that can be compared: the same data, model, spaces, windows and length of a trial."""
    train, tuned = settings.train, settings.tune
    identity = [
        features.description,
        train.models[label].model_dump(),
        {name: space.model_dump() for name, space in tuned.spaces[label].items()},
        [tuned.max_steps, tuned.folds, settings.seed, train.seed, train.early_stopping_cases, train.validation_cases],
    ]
    if len(tuned.objectives) > 1:  # else the name is that of before there were several
        identity.append(tuned.objectives)
    digest = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=4).hexdigest()
    return f"{settings.dataset}/{label}/{features.description['split_id']}/{digest}"


def open_study(
    name: str, url: str, seed: int, worker: int = 0, workers: int = 1, objectives: Sequence[str] = ("accuracy",)
):
    """The study of this name, made where there is none; what follows draws from a seed of its own.

    Args:
        objectives: the values that each trial ends with, accuracy first.
        seed: with the number of trials so far and the worker, of what is tried: a study that goes on would
            otherwise try its first values again, and two workers the same.
        worker: among `workers`, which work on it at once; each then takes the others' running trials for bad ones
            (a constant liar), so that they do not all look at the same place.
    """
    import optuna

    # A trial's end is one line of our own; Optuna would show a traceback for each that failed.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name=name,
        storage=open_storage(url),
        directions=[DIRECTIONS[name] for name in objectives],
        pruner=optuna.pruners.MedianPruner(),
        load_if_exists=True,
    )
    drawn = int(np.random.SeedSequence([seed, len(study.trials), worker]).generate_state(1)[0])
    study.sampler = optuna.samplers.TPESampler(seed=drawn, constant_liar=workers > 1)
    return study


def begin_with_defaults(study, label: str, settings: params.Params) -> None:
    """Let the next trial be of the values of params.yaml, unless they were measured: all else is held against them."""
    known = study.get_trials(deepcopy=False)
    if not any(DEFAULTS in trial.user_attrs and trial.state.name not in ("FAIL", "PRUNED") for trial in known):
        recipe = settings.train.models[label].model_dump()
        values = {name: recipe[name] for name in settings.tune.spaces[label]}
        study.enqueue_trial(values, user_attrs={DEFAULTS: True})


def suggest(trial, spaces: dict[str, search_space.Space]) -> dict:
    """One value per parameter."""
    return {name: _suggest(trial, name, space) for name, space in spaces.items()}


def _suggest(trial, name: str, space: search_space.Space):
    match space:
        case search_space.FloatRange():
            return trial.suggest_float(name, space.low, space.high, log=space.log)
        case search_space.IntRange():
            return trial.suggest_int(name, space.low, space.high, log=space.log)
        case search_space.Choice():
            return trial.suggest_categorical(name, space.values)


def this_process() -> list:
    """What tells this process from every other, also from a later one of its number."""
    return [socket.gethostname(), os.getpid(), psutil.Process().create_time()]


def is_gone(process: list) -> bool:
    """Whether a process of this machine has ended; of another machine's, only the storage's heartbeat can tell."""
    host, number, began = process
    if host != socket.gethostname():
        return False
    try:
        found = psutil.Process(number)
        return abs(found.create_time() - began) > 1 or found.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def bury(study) -> list[int]:
    """Mark the trials as failed whose process was killed; their numbers."""
    from optuna.trial import TrialState

    dead = [trial.number for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) if _is_dead(trial)]
    for number in dead:
        study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
    return dead


def _is_dead(trial) -> bool:
    if process := trial.user_attrs.get("process"):
        return is_gone(process)
    return datetime.now() - trial.datetime_start > UNCLAIMED


def begun(study) -> list:
    """The trials that do not wait, oldest first."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name != "WAITING"]


def completed(study) -> list:
    """The trials that came to an end, oldest first."""
    return [trial for trial in study.trials if trial.values is not None and trial.state.name == "COMPLETE"]


def accuracy(trial) -> float:
    """The first objective of a completed trial."""
    return trial.values[0]


def best(study):
    """The most accurate of the completed trials, the first of equals."""
    return max(completed(study), key=accuracy)


def front(study) -> list:
    """The completed trials that no other beats in every objective, the most accurate first."""
    return sorted(study.best_trials, key=accuracy, reverse=True)


def value_of_defaults(study) -> float | None:
    """The accuracy that the values of params.yaml reach; None where they could not be fitted."""
    return next((accuracy(trial) for trial in completed(study) if DEFAULTS in trial.user_attrs), None)


def ended_since(study, moment: float) -> list:
    """Trials which began after a moment (seconds since 1970) and ended by themselves."""
    ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name in ("COMPLETE", "PRUNED")]
    return [trial for trial in ended if trial.datetime_start.timestamp() >= moment]


@dataclass
class Budget:
    """How many more trials may begin; None is no limit but the time."""

    trials: int | None
    seconds: float

    def __post_init__(self) -> None:
        self.deadline = time.time() + self.seconds  # not the monotonic clock: other processes read it
        self.begun = False

    @property
    def seconds_left(self) -> float:
        return max(0.0, self.deadline - time.time())

    def take(self) -> bool:
        """Take one trial from it; whether there was one. The first is there however little the time."""
        if self.trials == 0 or (self.begun and self.seconds_left == 0):
            return False
        self.begun = True
        if self.trials is not None:
            self.trials -= 1
        return True

    def __str__(self) -> str:
        trials = "" if self.trials is None else f"{self.trials} trial{'' if self.trials == 1 else 's'} and "
        return f"{trials}{self.seconds_left / 60:.1f} minutes left"


def minutes_of(text: str, name: str) -> float:
    """A number of minutes above 0.

    Raises:
        UserError: it is none; begins with `name`, which the person typed it for.
    """
    try:
        minutes = float(text)
    except ValueError:
        minutes = math.nan
    if not 0 < minutes < math.inf:
        raise UserError(f"{name} is {text!r}; expected a number of minutes above 0")
    return minutes
