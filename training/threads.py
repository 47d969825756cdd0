"""Run batches on all cores, each batch in a thread of its own, and set the threads of torch for a while."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import psutil
import torch

Part = TypeVar("Part")
MAX_THREADS = 4  # parts at once: each holds scores of the whole catalog
OBSERVED_SECONDS = 0.2


def run_in_threads(parts: Iterable[Part], work: Callable[[Part], None], max_threads: int = MAX_THREADS) -> None:
    """Call `work` with every part, in inference mode, in as many threads as torch may use.

    An operation on a few hundred rows ends before a second core has begun its share; whole batches keep the cores
    busy. A part is drawn when a thread is free, so there are never more parts than threads. With `max_threads`, each
    gets more of torch's threads; it is 1 where another device does the work. The first error skips the parts that
    have not begun, and is raised.
    """
    allowed, iterator = torch.get_num_threads(), iter(parts)
    threads = min(allowed, max_threads)
    run = torch.inference_mode()(work)
    if threads == 1:
        for part in iterator:
            run(part)
        return
    with torch_threads(allowed // threads), ThreadPoolExecutor(threads) as pool:
        running = {pool.submit(run, part) for part in islice(iterator, threads)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
            running |= {pool.submit(run, part) for part in islice(iterator, len(done))}


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Let torch share each operation among so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def free_cores() -> int:
    """How many cores other processes leave idle, at least 1, observed while this process sleeps."""
    busy_percent = psutil.cpu_percent(OBSERVED_SECONDS)
    return max(1, round((os.cpu_count() or 1) * (1 - busy_percent / 100)))


@contextmanager
def idle_cores() -> Iterator[None]:
    """Let torch compute on the cores that other processes leave idle, or as OMP_NUM_THREADS says.

    Sums may differ in their last bits with the number of threads, as they do between machines.
    """
    allowed = torch.get_num_threads()
    with torch_threads(allowed if "OMP_NUM_THREADS" in os.environ else min(allowed, free_cores())):
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute as a worker does: threads share a product's rows, and a row's position may then change its last bit."""
    with torch_threads(1):
        yield
