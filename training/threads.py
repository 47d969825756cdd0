"""Batches worked through on all cores, each by a thread of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import TypeVar

import torch

from config.threads import free_cores

Part = TypeVar("Part")
MOST = 4  # parts at once: each holds scores of the whole catalogue


def side_by_side(parts: Iterable[Part], work: Callable[[Part], None], most: int = MOST) -> None:
    """Call `work` with every part, in inference mode, in as many threads as torch may use.

    An operation on a few hundred rows is over before its share for a second core is worth handing out; whole batches
    keep the cores apart. A part is drawn when a thread is free, so that no more parts exist than there are threads.

    Args:
        work: writes what it finds to places of the part's own.
        most: threads; beyond it each gets more of torch's. 1 where the work is another device's.

    Raises:
        Whatever drawing or working raises first; parts that are not yet begun are left out then.
    """
    allowed, left, lock, failed = torch.get_num_threads(), iter(parts), Lock(), False
    threads = min(allowed, most)

    @torch.inference_mode()
    def run() -> None:
        nonlocal failed
        try:
            while not failed:
                with lock:
                    drawn = next(((part,) for part in left), None)
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
        for ended in [pool.submit(run) for _ in range(threads)]:
            ended.result()


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Let torch share each operation among so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
    """Compute as a worker does: threads share a product's rows among them, and then a row's place may turn its last bit."""
    with torch_threads(1):
        yield
