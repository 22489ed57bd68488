"""Timing runs in turns, so that the machine's drift hits all of them alike."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

T = TypeVar("T")


def machine(device: str = "cpu") -> str:
    """Name what a device computes with, for titles of tables."""
    if device == "cpu":
        return f"{torch.get_num_threads()} CPU threads"
    return torch.cuda.get_device_name(device)


def fastest_in_turns(
    functions: Mapping[str, Callable[[], object]], repeats: int
) -> dict[str, float]:
    """Return the seconds of each function's fastest run, after one run that does not count."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            seconds, _ = timed(function)
            if repeat:
                times[name].append(seconds)
    return {name: min(seconds) for name, seconds in times.items()}


def timed(function: Callable[[], T]) -> tuple[float, T]:
    """Return the seconds that a function takes, and its result; show the seconds on stderr."""
    start = time.perf_counter()
    result = function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    print(f"{seconds:.3f} s", file=sys.stderr, flush=True)
    return seconds, result
