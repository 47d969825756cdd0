"""A study that outlives the processes that work on it: what it is of, how it is opened, which trials are dead."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np
import psutil

import params
import search_space
from experiments.tuning.objectives import DIRECTIONS
from experiments.tuning.storage import open_storage
from features.store import Features

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
