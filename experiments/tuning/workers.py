"""Several processes that work on one study.

Each worker gets its share of the cores. A worker that is killed loses its trial and nothing else.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
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


class WorkersError(UserError):
    """Workers die before they can end a trial."""


@dataclass(frozen=True)
class Job:
    """What a worker needs to start. It reads the features itself, so that they need not be sent.

    Attributes:
        parent: id of the MLflow run that holds the trials' runs.
        features: folder of the features.
    """

    study: str
    url: str
    label: str
    settings: params.Params
    parent: str
    features: Path
    workers: int


def threads_per_worker(workers: int) -> int:
    """Threads of each worker: networks whose threads compete for cores are several times slower than one alone."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores // workers, int(limit) if limit.isdecimal() else cores))


def worker_main(pipe: Connection, job: Job, number: int) -> None:
    """Run one trial for each deadline received and send its number back, until the pipe closes."""
    search = Search.of(job.label, feature_files.load_features(job.features), job.settings, job.parent)
    study = open_study(job.study, job.url, job.settings.seed, number, job.workers, job.settings.tune.objectives)
    with suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        while True:
            pipe.send(run_next_trial(study, search, pipe.recv()))


@dataclass
class WorkerPool:
    """Worker processes, by the pipe to each.

    Attributes:
        on_end: called with the number of each trial that has ended.
        on_death: called after a worker has died.
    """

    job: Job
    budget: Budget
    on_end: Callable[[int], None]
    on_death: Callable[[], None]
    processes: dict[Connection, BaseProcess] = field(default_factory=dict)
    started: int = 0
    deaths: int = 0  # in a row

    def run(self) -> None:
        """Run trials until the budget is spent.

        A worker that dies is replaced while trials are left; its trial counts as started.

        Raises:
            WorkersError: several workers died in a row.
        """
        try:
            while self._fill():
                ready = wait(self.processes)
                for pipe in [pipe for pipe in self.processes if pipe in ready]:
                    self._receive(pipe)
        except BaseException:
            for process in self.processes.values():
                process.terminate()
            raise
        finally:
            for pipe in list(self.processes):
                self._release(pipe)

    def _fill(self) -> bool:
        """Start workers up to the configured number; whether any is at work."""
        while len(self.processes) < self.job.workers and self.budget.take():
            pipe, process = _start_worker(self.job, self.started)
            self.processes[pipe] = process
            self.started += 1
            self._order_trial(pipe)
        return bool(self.processes)

    def _order_trial(self, pipe: Connection) -> None:
        with suppress(OSError):  # it has died: the next receive from its pipe shows it
            pipe.send(self.budget.deadline)

    def _receive(self, pipe: Connection) -> None:
        try:
            number = pipe.recv()
        except (EOFError, ConnectionResetError):
            self._release(pipe)
            self._count_death()
            return
        self.deaths = 0
        self.on_end(number)
        if self.budget.take():
            self._order_trial(pipe)
        else:
            self._release(pipe)

    def _release(self, pipe: Connection) -> None:
        """Let a worker end: now if it waits, otherwise after its trial."""
        process = self.processes.pop(pipe)
        pipe.close()
        process.join()

    def _count_death(self) -> None:
        self.deaths += 1
        self.on_death()
        if self.deaths >= MAX_DEATHS:
            raise WorkersError(
                f"tune: {self.deaths} workers in a row died before their trial ended; if memory is short, use fewer than "
                f"--workers {self.job.workers}"
            )


def _start_worker(job: Job, number: int) -> tuple[Connection, BaseProcess]:
    context = multiprocessing.get_context("spawn")  # a forked process would inherit torch's threads and hang
    pipe, theirs = context.Pipe()
    process = context.Process(target=worker_main, args=(theirs, job, number), name=f"tune-{number}")
    with _thread_count(threads_per_worker(job.workers)):
        process.start()
    theirs.close()  # so that the pipe closes when the worker ends
    return pipe, process


@contextmanager
def _thread_count(count: int) -> Iterator[None]:
    """Processes that start inside the block compute with this many threads."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, str(count)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
