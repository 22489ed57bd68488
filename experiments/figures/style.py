"""The look that the figures share."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from iglens_tl.views.text import show_label

COLORS = (
    "#2166ac",
    "#b2182b",
    "#1b7837",
    "#762a83",
    "#e08214",
    "#26b8c4",
    "#4d4d4d",
    "#e468ae",
    "#8c510a",
    "#a6a61d",
)
"""Colours of lines, the first ones those of the package's figures."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, which takes an s where it is not one."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def finish(figure: go.Figure, title: str, finding: str, *, width: int, height: int) -> go.Figure:
    """Give a figure its title, what was found in lines below it, its size and its look."""
    figure.update_layout(
        title={
            "text": show_label(title),
            "subtitle": {"text": show_label(finding).replace("\n", "<br>")},
            "x": 0,
            "xref": "paper",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 20},
        },
        template="plotly_white",
        width=width,
        height=height,
        margin={"l": 80, "r": 40, "t": 120, "b": 70},
        hoverlabel={"font": {"family": "monospace"}, "align": "left"},
    )
    return figure


def band(x: list[Any], low: list[float], high: list[float], color: str) -> go.Scatter:
    """Return the area between two lines."""
    return go.Scatter(
        x=[*x, *reversed(x)],
        y=[*high, *reversed(low)],
        fill="toself",
        fillcolor=color,
        opacity=0.18,
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
    )
