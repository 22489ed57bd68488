"""Give every figure the same colours, scales and paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

NEGATIVE, NEUTRAL, POSITIVE = "#b2182b", "#4d4d4d", "#2166ac"
"""Colours of what lowers a value, of totals, and of what raises it."""

LINES = ("#2166ac", "#b2182b", "#1b7837", "#762a83", "#e08214", "#01665e", "#4d4d4d")
"""Colours of lines."""

DASHES = ("solid", "dash", "dot")
"""Dashes of lines, which may lie on one another."""

PALE = "#a6a6a6"
"""The colour of what only stands for comparison."""

PAPER: dict[str, Any] = {
    "template": "plotly_white",
    "hoverlabel": {"font": {"family": "monospace"}, "align": "left"},
}
"""The layout that all figures share."""

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


def line_style(number: int) -> dict[str, str]:
    """Return colour and dash of a line; both differ, as lines may lie on one another."""
    return {"color": LINES[number % len(LINES)], "dash": DASHES[number % len(DASHES)]}


def label_axis(labels: Sequence[str], **options: Any) -> dict[str, Any]:
    """Return an axis with one label for every whole number from 0, without lines between them."""
    return {
        "tickmode": "array",
        "tickvals": list(range(len(labels))),
        "ticktext": list(labels),
        "showgrid": False,
        "zeroline": False,
        **options,
    }
