"""Several processes that work on one study.

Each worker gets its share of the cores. A worker that is killed loses its trial and nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from config import params
from config.command import UserError
from experiments.tuning.study import Budget, Search, open_study
from experiments.tuning.trials import run_next_trial
from features import feature_files

MAX_DEATHS = 3  # in a row: then it is not the values of one trial that kill workers
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Job:
    """What a worker needs to start. It reads the features itself, so that they need not be sent."""

    study: str
    url: str
    label: str
    settings: params.Params
    parent: str  # id of the MLflow run that holds the trials' runs
    features: Path  # folder of the features
    workers: int


def threads_per_worker(workers: int) -> int:
    """Threads of each worker: networks whose threads compete for cores are several times slower than one alone."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores // workers, int(limit) if limit.isdecimal() else cores))


def run_workers(job: Job, budget: Budget, on_end: Callable[[int], None], on_death: Callable[[], None]) -> None:
    """Run trials in several processes until the budget is spent.

    Each worker gets a deadline through its pipe for each trial, and sends the trial's number back. A worker that dies is
    replaced while trials are left; its trial counts as started.

    Args:
        on_end: called with the number of each trial that has ended.
        on_death: called after a worker has died.

    Raises:
        UserError: several workers died in a row.
    """
    workers: dict[Connection, BaseProcess] = {}
    started = deaths = 0
    try:
        while True:
            while len(workers) < job.workers and budget.take():
                pipe, process = _start_worker(job, started)
                workers[pipe] = process
                started += 1
                with suppress(OSError):  # it has died already: the next receive from its pipe shows it
                    pipe.send(budget.deadline)
            if not workers:
                return
            ready = wait(workers)
            for pipe in [pipe for pipe in workers if pipe in ready]:
                try:
                    on_end(pipe.recv())
                    deaths = 0
                    if budget.take():
                        pipe.send(budget.deadline)
                        continue
                except (EOFError, OSError):
                    deaths += 1
                    on_death()
                    if deaths >= MAX_DEATHS:
                        raise UserError(
                            f"tune: {deaths} workers in a row died before their trial ended; if memory is short, use "
                            f"fewer than --workers {job.workers}"
                        ) from None
                pipe.close()  # the worker ends
                workers.pop(pipe).join()
    finally:
        for process in workers.values():
            process.terminate()
            process.join()


def _start_worker(job: Job, number: int) -> tuple[Connection, BaseProcess]:
    context = multiprocessing.get_context("spawn")  # a forked process would inherit torch's threads and hang
    pipe, other_end = context.Pipe()
    process = context.Process(target=worker_main, args=(other_end, job, number), name=f"tune-{number}")
    with _thread_count(threads_per_worker(job.workers)):
        process.start()
    other_end.close()  # so that the pipe closes when the worker ends
    return pipe, process


@contextmanager
def _thread_count(count: int) -> Iterator[None]:
    """Processes that start inside the block compute with this many threads."""
    before = {name: os.environ[name] for name in THREADS if name in os.environ}
    os.environ.update(dict.fromkeys(THREADS, str(count)))
    try:
        yield
    finally:
        for name in THREADS:
            del os.environ[name]
        os.environ.update(before)


def worker_main(pipe: Connection, job: Job, number: int) -> None:
    """Run one trial for each deadline received and send its number back, until the pipe closes."""
    search = Search.of(job.label, feature_files.load_features(job.features), job.settings, job.parent)
    study = open_study(job.study, job.url, job.settings.seed, number, job.workers, job.settings.tune.objectives)
    with suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        while True:
            pipe.send(run_next_trial(study, search, pipe.recv()))
