"""Run batches on all cores, each batch in a thread of its own, and set the threads of torch for a while."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import TypeVar

import psutil
import torch

Part = TypeVar("Part")
MAX_THREADS = 4  # parts at once: each holds scores of the whole catalog
OBSERVED_SECONDS = 0.2


def run_in_threads(parts: Iterable[Part], work: Callable[[Part], None], max_threads: int = MAX_THREADS) -> None:
    """Call `work` with every part, in inference mode, in as many threads as torch may use.

    An operation on a few hundred rows ends before a second core has begun its share; whole batches keep the cores
    busy. A part is drawn when a thread is free, so there are never more parts than threads.

    Args:
        work: writes its result to a place that belongs to the part.
        max_threads: beyond it, each thread gets more of torch's threads. 1 where another device does the work.

    Raises:
        Whatever drawing or working raises first. Parts that have not begun are then skipped.
    """
    allowed, iterator, lock, failed = torch.get_num_threads(), iter(parts), Lock(), False
    threads = min(allowed, max_threads)

    @torch.inference_mode()
    def run() -> None:
        nonlocal failed
        try:
            while not failed:
                with lock:
                    drawn = next(((part,) for part in iterator), None)
                if drawn is None:
                    return
                work(*drawn)
        except BaseException:
            failed = True
            raise

    if threads == 1:
        run()
        return
    with torch_threads(allowed // threads), ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(run) for _ in range(threads)]:
            future.result()


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
