"""Several processes on one fit, each with a device of its own: GPUs where there are any, else shares of the cores.

Rank zero is the process that asked for the fit: it alone reports, is tracked and returns. The others follow it.
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
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch import distributed

from config.command import UserError, describe_fault

VARIABLE = "TIDEGATE_DEVICES"


class DevicesError(UserError):
    """The fit cannot be shared as asked; the message names TIDEGATE_DEVICES."""


class DeviceSettings(BaseSettings):
    """Read from the environment: it says who computes, never what, so it is no part of params.yaml.

    Losses and weights are those of one device up to rounding; only what dropout leaves out is drawn differently,
    as under another seed.
    """

    model_config = SettingsConfigDict(env_prefix="TIDEGATE_", env_ignore_empty=True, frozen=True, extra="ignore")

    devices: Annotated[int, Field(ge=1)] = 1


def stated() -> int:
    """The number of devices that the environment asks for, 1 where it says nothing.

    Raises:
        DevicesError: it is no whole number of at least 1.
    """
    try:
        return DeviceSettings().devices
    except ValidationError as error:
        raise DevicesError(describe_fault(VARIABLE, error.errors()[0])) from None


ADDRESS = "127.0.0.1"  # all processes of a fit run on one machine
WRITTEN = ("MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS")  # by Lightning, into the environment
Followers = list[tuple[BaseProcess, Connection]]


class Place(LightningEnvironment):
    """One process's place among those of a fit. Lightning starts none of them: they run already.

    Args:
        rank: 0 of the process that leads.
        port: where they meet on this machine.
        threads: that each may compute with.
    """

    creates_processes_externally = True
    main_address = ADDRESS

    def __init__(self, rank: int, size: int, port: int, threads: int) -> None:
        super().__init__()
        self.rank, self.size, self.threads, self._main_port = rank, size, threads, port
        self.others: Followers = []
        self.line: Connection | None = None

    def local_rank(self) -> int:
        return self.rank

    def node_rank(self) -> int:
        return 0

    def meet(self) -> None:
        """Wait for the others before training: from then on, a connection that breaks tells of a death at once.

        Raises:
            DevicesError: one of them has died on its way.
        """
        if self.line is not None:
            self.line.send(self.rank)
        for process, line in self.others:
            try:
                line.recv()
            except EOFError:
                raise _died(process) from None


@contextmanager
def side_by_side(size: int, follow: Callable[..., None], *task: object) -> Iterator[Place | None]:
    """Have `size - 1` further processes call `follow(place, *task)` while the block does rank zero's part.

    They end with the block, whatever they are at. Yields None where `size` is 1.

    Raises:
        DevicesError: there are fewer GPUs, or one of the processes has died.
    """
    if size == 1:
        yield None
        return
    if torch.cuda.is_available() and size > torch.cuda.device_count():
        raise DevicesError(f"{VARIABLE} is {size}; this machine has {torch.cuda.device_count()} GPUs")
    place = Place(0, size, _free_port(), max(1, torch.get_num_threads() // size))
    try:
        with _prepared(place):
            place.others = [_started(rank, place, follow, task) for rank in range(1, size)]
            yield place
    except Exception as error:
        if dead := [process for process, _ in place.others if _has_died(process)]:
            raise _died(dead[0]) from error
        raise
    finally:
        for process, _ in place.others:
            process.kill()
            process.join()


@contextmanager
def _prepared(place: Place) -> Iterator[None]:
    """Compute with this process's part of the threads, and leave nothing behind of having worked with others."""
    threads, hook = torch.get_num_threads(), sys.excepthook  # torch puts a hook of its own in front at each start
    before = {name: os.environ.get(name) for name in WRITTEN}
    torch.set_num_threads(place.threads)
    os.environ["OMP_NUM_THREADS"] = str(place.threads)
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


def _started(rank: int, leader: Place, follow: Callable[..., None], task: tuple) -> tuple[BaseProcess, Connection]:
    context = multiprocessing.get_context("spawn")  # a forked process would inherit torch's threads, and hang
    line, theirs = context.Pipe()
    place = Place(rank, leader.size, leader.main_port, leader.threads)
    process = context.Process(target=_life, args=(place, theirs, follow, task), name=f"fit-{rank}", daemon=True)
    process.start()
    theirs.close()  # so that the follower's end of the line is closed when the follower ends
    return process, line


def _life(place: Place, line: Connection, follow: Callable[..., None], task: tuple) -> None:
    signal(SIGINT, SIG_IGN)  # an interrupt ends the leader, and the leader ends the others
    place.line = line
    with _prepared(place):
        follow(place, *task)


def _has_died(process: BaseProcess) -> bool:
    process.join(timeout=5)  # the connection breaks a moment before the process has ended
    return process.exitcode not in (None, 0)


def _died(process: BaseProcess) -> DevicesError:
    process.join(timeout=5)
    said = f"with exit code {process.exitcode}; if memory is short, fewer may live"
    return DevicesError(f"{VARIABLE}: the process {process.name} ended {said}")


def _free_port() -> int:
    from lightning_fabric.plugins.environments.lightning import find_free_network_port

    return find_free_network_port()
