"""Spreading work on small models over processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

import torch
import transformers

Item = TypeVar("Item")
Found = TypeVar("Found")


def map_processes(
    function: Callable[[Item], Found], items: Iterable[Item], *, processes: int
) -> list[Found]:
    """Return what a function of a module finds for every item, in order.

    Args:
        function: The function.
        items: What it is called with.
        processes: How many processes share the items; 1 for the one that asks.
    """
    if processes == 1:
        return [function(item) for item in items]
    context = get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_prepare) as pool:
        return list(pool.map(function, items))


def _prepare() -> None:
    """Set up a process: small models lose more by threads than they gain."""
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
