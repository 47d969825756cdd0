"""Several processes on one study: each takes its share of the cores, and one that is killed costs its trial only."""

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
from experiments.tuning.study import Budget, open_study
from experiments.tuning.trials import Search, run_next
from features import feature_files

MOST_DEATHS = 3  # one after the other: what kills them is not the values of one trial
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class WorkersError(UserError):
    """Workers do not live long enough to end a trial."""


@dataclass(frozen=True)
class Job:
    """What a worker needs to begin; it reads the features itself, so that they are not sent."""

    study: str
    url: str
    label: str
    settings: params.Params
    parent: str  # the MLflow run above its trials'
    features: Path
    workers: int


def threads_for(workers: int) -> int:
    """Threads of each: two networks whose threads want the same cores are several times slower than one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    stated = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores // workers, int(stated) if stated.isdecimal() else cores))


def work(line: Connection, job: Job, number: int) -> None:
    """A worker's life: a trial for each deadline that comes in, its number sent back; ends when the line does."""
    search = Search.of(job.label, feature_files.load_features(job.features), job.settings, job.parent)
    study = open_study(job.study, job.url, job.settings.seed, number, job.workers, job.settings.tune.objectives)
    with suppress(EOFError, BrokenPipeError, KeyboardInterrupt):
        while True:
            line.send(run_next(study, search, line.recv()))


@dataclass
class Crew:
    """The processes that are at work, by the line to each.

    Attributes:
        on_end: called with the number of each trial that has ended.
        on_death: called after a worker has died.
    """

    job: Job
    budget: Budget
    on_end: Callable[[int], None]
    on_death: Callable[[], None]

    def __post_init__(self) -> None:
        self.members: dict[Connection, BaseProcess] = {}
        self.hired = self.deaths = 0

    def run(self) -> None:
        """Have trials run until the budget is spent.

        A worker that dies is replaced while there are trials left; the one that it was at counts as begun.

        Raises:
            WorkersError: several died, and no trial ended meanwhile.
        """
        try:
            while self._hire():
                ready = wait(self.members)
                for line in [line for line in self.members if line in ready]:
                    self._hear(line)
        except BaseException:
            for process in self.members.values():
                process.terminate()
            raise
        finally:
            for line in list(self.members):
                self._dismiss(line)

    def _hire(self) -> bool:
        """Fill the places that are free; whether anybody is at work."""
        while len(self.members) < self.job.workers and self.budget.take():
            line, process = _started(self.job, self.hired)
            self.members[line] = process
            self.hired += 1
            self._order(line)
        return bool(self.members)

    def _order(self, line: Connection) -> None:
        with suppress(OSError):  # it has died since: its line says so when it is heard next
            line.send(self.budget.deadline)

    def _hear(self, line: Connection) -> None:
        try:
            ended = line.recv()
        except (EOFError, ConnectionResetError):
            self._dismiss(line)
            self._bear_a_death()
            return
        self.deaths = 0
        self.on_end(ended)
        if self.budget.take():
            self._order(line)
        else:
            self._dismiss(line)

    def _dismiss(self, line: Connection) -> None:
        """Let a worker end: at once if it waits, after its trial if it is at one."""
        process = self.members.pop(line)
        line.close()
        process.join()

    def _bear_a_death(self) -> None:
        self.deaths += 1
        self.on_death()
        if self.deaths >= MOST_DEATHS:
            raise WorkersError(
                f"tune: {self.deaths} workers in a row ended before their trial did; if memory is short, fewer than "
                f"--workers {self.job.workers} may live"
            )


def _started(job: Job, number: int) -> tuple[Connection, BaseProcess]:
    context = multiprocessing.get_context("spawn")  # a forked process would inherit torch's threads, and hang
    line, theirs = context.Pipe()
    process = context.Process(target=work, args=(theirs, job, number), name=f"tune-{number}")
    with _threads(threads_for(job.workers)):
        process.start()
    theirs.close()  # so that the worker's end of the line is closed when the worker ends
    return line, process


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Processes that start inside the block compute with this many threads."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, str(number)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
