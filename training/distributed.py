"""Several processes that share one fit, each with a device of its own: GPUs where there are any, else CPU cores.

The process that was asked for the fit has rank 0. It alone reports, tracks and returns the result.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from signal import SIG_IGN, SIGINT, signal
from typing import Annotated

import torch
from lightning_fabric.plugins.environments.lightning import find_free_network_port
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch import distributed

from config.command import UserError
from config.validation import describe_error

VARIABLE = "TIDEGATE_DEVICES"
ADDRESS = "127.0.0.1"  # all processes of a fit run on one machine
WRITTEN_BY_LIGHTNING = ("MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")  # environment variables
EXIT_SECONDS = 5  # a connection breaks a moment before its process has ended

Workers = list[tuple[BaseProcess, Connection]]


class DevicesError(UserError):
    """The fit cannot be shared as requested; the message names TIDEGATE_DEVICES."""


class DeviceSettings(BaseSettings):
    """Read from the environment, not from params.yaml: it decides who computes, not what.

    Losses and weights are those of one device up to rounding. Only dropout is drawn differently, as by another seed.
    """

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_", env_ignore_empty=True, frozen=True, extra="ignore")

    devices: Annotated[int, Field(ge=1)] = 1


def num_devices() -> int:
    """The number of devices that the environment asks for; 1 by default.

    Raises:
        DevicesError: it is no whole number of at least 1.
    """
    try:
        return DeviceSettings().devices
    except ValidationError as error:
        raise DevicesError(describe_error(VARIABLE, error.errors()[0])) from None


class DistributedEnvironment(LightningEnvironment):
    """One process's rank among those of a fit. Lightning starts none of them: they run already.

    Args:
        port: on this machine, where the processes connect.
        threads: that each process may compute with.
    """

    creates_processes_externally = True
    main_address = ADDRESS

    def __init__(self, rank: int, size: int, port: int, threads: int) -> None:
        super().__init__()
        self.rank, self.size, self.threads, self._main_port = rank, size, threads, port
        self.workers: Workers = []  # of rank 0
        self.connection: Connection | None = None  # of the others: to rank 0

    def local_rank(self) -> int:
        return self.rank

    def node_rank(self) -> int:
        return 0

    def barrier(self) -> None:
        """Wait for the other processes before training. From then on a broken connection reports a death at once.

        Raises:
            DevicesError: one of them has died while it started.
        """
        if self.connection is not None:
            self.connection.send(self.rank)
        for process, connection in self.workers:
            try:
                connection.recv()
            except EOFError:
                raise _death_of(process) from None


@contextmanager
def start_workers(size: int, main: Callable[..., None], *task: object) -> Iterator[DistributedEnvironment | None]:
    """Have `size - 1` further processes call `main(environment, *task)` while the block does the part of rank 0.

    They end with the block, whatever they are doing. Yields None where `size` is 1.

    Raises:
        DevicesError: there are fewer GPUs, or one of the processes has died.
    """
    if size == 1:
        yield None
        return
    if torch.cuda.is_available() and size > torch.cuda.device_count():
        raise DevicesError(f"{VARIABLE} is {size}; this machine has {torch.cuda.device_count()} GPUs")
    threads = max(1, torch.get_num_threads() // size)
    environment = DistributedEnvironment(0, size, find_free_network_port(), threads)
    try:
        with _process_state(environment):
            environment.workers = [_start_worker(rank, environment, main, task) for rank in range(1, size)]
            yield environment
    except Exception as error:
        if dead := [process for process, _ in environment.workers if _has_died(process)]:
            raise _death_of(dead[0]) from error
        raise
    finally:
        for process, _ in environment.workers:
            process.kill()
            process.join()


@contextmanager
def _process_state(environment: DistributedEnvironment) -> Iterator[None]:
    """Compute with this process's share of the threads, and restore all that a shared fit changes."""
    threads, hook = torch.get_num_threads(), sys.excepthook  # torch wraps the hook at each start
    before = {name: os.environ.get(name) for name in WRITTEN_BY_LIGHTNING}
    torch.set_num_threads(environment.threads)
    os.environ["OMP_NUM_THREADS"] = str(environment.threads)
    try:
        yield
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
        torch.set_num_threads(threads)
        sys.excepthook = hook
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({name: value} if value is not None else {})


def _start_worker(
    rank: int, leader: DistributedEnvironment, main: Callable[..., None], task: tuple
) -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context("spawn")  # a forked process would inherit torch's threads, and hang
    connection, other_end = context.Pipe()
    environment = DistributedEnvironment(rank, leader.size, leader.main_port, leader.threads)
    arguments = (environment, other_end, main, task)
    process = context.Process(target=_run_worker, args=arguments, name=f"fit-{rank}", daemon=True)
    process.start()
    other_end.close()  # so that the worker's end is closed when the worker ends
    return process, connection


def _run_worker(
    environment: DistributedEnvironment, connection: Connection, main: Callable[..., None], task: tuple
) -> None:
    signal(SIGINT, SIG_IGN)  # an interrupt ends rank 0, and rank 0 ends the others
    environment.connection = connection
    with _process_state(environment):
        main(environment, *task)


def _has_died(process: BaseProcess) -> bool:
    process.join(timeout=EXIT_SECONDS)
    return process.exitcode not in (None, 0)


def _death_of(process: BaseProcess) -> DevicesError:
    process.join(timeout=EXIT_SECONDS)
    return DevicesError(
        f"{VARIABLE}: the process {process.name} ended with exit code {process.exitcode}; "
        "if memory is short, use fewer devices"
    )
