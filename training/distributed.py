"""Several processes that share one fit, each with a device of its own: GPUs where there are any, else CPU cores."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from config.command import UserError

VARIABLE = "TIDEGATE_DEVICES"
POLL_SECONDS, EXIT_SECONDS = 0.1, 5

Report = Callable[[dict], bool | None]


class DevicesError(UserError):
    """The fit cannot be shared as requested; the message names TIDEGATE_DEVICES."""


def num_devices() -> int:
    """The number of devices that the environment asks for; 1 by default.

    It is not in params.yaml, because it decides who computes, not what: losses and weights are those of one device up to
    rounding. Only dropout is drawn differently, as by another seed.

    Raises:
        DevicesError: it is no whole number of at least 1.
    """
    text = os.environ.get(VARIABLE) or "1"
    if not text.isdecimal() or int(text) < 1:
        raise DevicesError(f"{VARIABLE} is {text!r}; expected a whole number of at least 1")
    return int(text)


def run_in_processes(size: int, work: Callable[..., Any], on_report: Report | None, *arguments: object) -> Any:
    """What `work(report, *arguments)` returns in the first of `size` new processes, which all call it.

    Args:
        on_report: called in this process with what the first process passes to `report`, which returns its result.

    Raises:
        DevicesError: there are fewer GPUs, or one of the processes has died.
    """
    from lightning_fabric.plugins.environments.lightning import find_free_network_port  # slow to import

    if torch.cuda.is_available() and size > torch.cuda.device_count():
        raise DevicesError(f"{VARIABLE} is {size}; this machine has {torch.cuda.device_count()} GPUs")
    parent_end, child_end = multiprocessing.Pipe()
    threads = max(1, torch.get_num_threads() // size)
    task = (size, find_free_network_port(), threads, child_end, work, arguments)
    # Spawned: a forked process would inherit torch's threads, and hang.
    started = start_processes(_call, task, size, join=False, daemon=True, start_method="spawn")
    result, ended = None, False
    try:
        while not ended:
            ended = started.join(POLL_SECONDS, EXIT_SECONDS)
            while parent_end.poll():
                row, result = pickle.loads(parent_end.recv_bytes())
                if row is not None:
                    parent_end.send(on_report is not None and bool(on_report(row)))
    except ProcessExitedException as error:
        raise DevicesError(f"{VARIABLE}: {error}; if memory is short, use fewer devices") from error
    finally:
        for process in started.processes:
            process.kill()
            process.join()
    return result


def _call(
    rank: int, size: int, port: int, threads: int, connection: Connection, work: Callable[..., Any], arguments: tuple
) -> None:
    """One of the processes, with the environment that torchrun would give it."""
    torch.set_num_threads(threads)
    names = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": size, "OMP_NUM_THREADS": threads}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in (names | address).items()}

    def report(row: dict) -> bool:
        if rank > 0:
            return False
        connection.send_bytes(pickle.dumps((row, None)))
        return connection.recv()

    result = work(report, *arguments)
    if rank == 0:
        connection.send_bytes(pickle.dumps((None, result)))  # as bytes: tensors in shared memory would end with it
