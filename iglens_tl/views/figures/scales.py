"""Colour scales, the same in every figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

NEGATIVE, NEUTRAL, POSITIVE = "#b2182b", "#4d4d4d", "#2166ac"
"""Colours of what lowers a value, of totals, and of what raises it."""

DIVERGING = [[0.0, NEGATIVE], [0.5, "#ffffff"], [1.0, POSITIVE]]
"""Red below 0, white at 0, blue above."""


def signed_scale(values: Sequence[np.ndarray]) -> dict[str, Any]:
    """Return a scale that is white at 0, symmetric, and the same for all the values."""
    limit = max(max(float(np.abs(numbers).max()) for numbers in values), 1e-12)
    return {"colorscale": DIVERGING, "cmin": -limit, "cmax": limit}


def level_scale(unit: str) -> dict[str, Any]:
    """Return the scale of what is read out: fixed from 0 to 1 for probabilities."""
    limits = {"cmin": 0.0, "cmax": 1.0} if unit == "probability" else {}
    return {"colorscale": "Blues", **limits}
