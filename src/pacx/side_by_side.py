"""Many small trainings on all cores: one thread each, side by side.

The matrix products of a probe's head are too small to be worth dividing: two threads on one of them wait for each other
at every operation, on a busy machine for the scheduler too. PyTorch and NumPy let go of the interpreter while they
compute, so threads do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from tqdm import tqdm

__all__ = ["map_side_by_side"]

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_side_by_side(
    function: Callable[[Item], Result], items: Sequence[Item], *, size: Callable[[Item], float], label: str, unit: str
) -> list[Result]:
    """Call a function on every item, as many at a time as PyTorch has threads; the results keep the order.

    Args:
        function: computes with PyTorch.
        items: what to compute.
        size: how long an item takes, in any unit; the longest begin first.
        label: what the progress bar calls it.
        unit: what it calls an item.
    """
    threads = torch.get_num_threads()
    workers = max(1, min(threads, len(items)))
    each = threads // workers
    order = sorted(range(len(items)), key=lambda number: -size(items[number]))
    torch.set_num_threads(each)
    try:
        # The number of threads belongs to the thread that computes.
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(each,)) as pool:
            found = {number: pool.submit(function, items[number]) for number in order}
            for number in tqdm(order, desc=label, unit=unit, leave=False, disable=None):
                found[number].result()
    finally:
        torch.set_num_threads(threads)
    return [found[number].result() for number in range(len(items))]
