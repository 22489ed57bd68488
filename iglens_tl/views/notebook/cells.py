"""The cells, tints and tables that notebooks show, also those that are not trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from iglens_tl.views.html import render

_RED, _BLUE = "178,24,43", "33,102,172"
# A tint under text leaves it readable, on white paper and on black.
_DARKEST = 0.7


@dataclass(frozen=True)
class Cell:
    """A cell.

    Attributes:
        text: What it says.
        tint: Its colour; "" for none.
        title: What it says on hover.
        line: The points of a small curve in place of the text.
    """

    text: str = ""
    tint: str = ""
    title: str = ""
    line: str | None = None


@dataclass(frozen=True)
class Row:
    """A row with its name."""

    name: str
    cells: Sequence[Cell]
    title: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its name; "" for none."""

    name: str
    header: Sequence[str]
    rows: Sequence[Row]


def render_tables(caption: str, tables: Sequence[Table], notes: Sequence[str]) -> str:
    """Return tables below one another as HTML."""
    return render("notebook.html.jinja", caption=caption, tables=tables, notes=notes)


def numbered(values: Float[np.ndarray, " segment"], limit: float) -> list[Cell]:
    """Return cells with signed numbers, tinted up to a limit."""
    return [Cell(f"{value:+.4f}", signed_tint(value, limit)) for value in values.tolist()]


def signed_tint(value: float, limit: float) -> str:
    """Return the colour of a number: red below 0, blue above."""
    if np.isnan(value):
        return ""
    return f"rgba({_BLUE if value > 0 else _RED},{min(abs(value) / limit, 1) * _DARKEST:.2f})"


def level_tint(value: float, low: float, high: float) -> str:
    """Return the colour of a level between two limits."""
    share = (value - low) / (high - low or 1)
    return f"rgba({_BLUE},{min(max(share, 0), 1) * _DARKEST:.2f})"
