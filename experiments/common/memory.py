"""Peak memory of a call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def extra_memory_mb(function: Callable[[], object]) -> float:
    """Return by how much the peak of resident memory exceeds the memory held before the call.

    Memory that the process freed earlier may be used again unseen, so that each measurement needs a
    process of its own. Linux only.
    """
    Path("/proc/self/clear_refs").write_text("5")  # resets the recorded peak
    before = _memory_mb("VmRSS")
    function()
    return _memory_mb("VmHWM") - before


def _memory_mb(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"/proc/self/status has no {field}")
