"""Write arrays of numbers as text that a script reads quickly."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np


class ArrayPool:
    """Arrays on their way into a page, each kept once.

    Lenses share arrays, such as levels and most probable tokens, so that equal ones are written
    once and named by number.

    Attributes:
        entries: The arrays in order: their type ("f4", "u2" or "u4"), shape and little-endian bytes
            as base64.
    """

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self._places: dict[tuple[str, tuple[int, ...], bytes], int] = {}

    def add(self, array: np.ndarray) -> int:
        """Add an array and return its number.

        Floating-point numbers become float32, whole numbers the smaller of uint16 and uint32 that
        holds them.

        Raises:
            ValueError: For negative whole numbers.
        """
        kind = _kind(array)
        data = array.astype(f"<{kind}").tobytes()
        key = (kind, array.shape, data)
        if key not in self._places:
            self._places[key] = len(self.entries)
            text = base64.b64encode(data).decode("ascii")
            self.entries.append({"type": kind, "shape": list(array.shape), "data": text})
        return self._places[key]


def _kind(array: np.ndarray) -> str:
    if array.dtype.kind == "f":
        return "f4"
    if array.size and array.min() < 0:
        raise ValueError(f"whole numbers of a page are at least 0, got {array.min()}")
    return "u2" if not array.size or array.max() < 2**16 else "u4"
