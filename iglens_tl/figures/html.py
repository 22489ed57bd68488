"""Figures as files that need no network."""

from __future__ import annotations

from pathlib import Path

import plotly.graph_objects as go
import plotly.io

from iglens_tl.files import write_atomically


def write_html(figure: go.Figure, path: str | Path) -> Path:
    """Write a figure as one self-contained HTML page, plotly's script included.

    Raises:
        ValueError: If the path cannot be written.
    """
    page = plotly.io.to_html(
        figure, include_plotlyjs=True, include_mathjax=False, full_html=True, validate=True
    )
    return write_atomically(path, lambda target: target.write_text(page, encoding="utf-8"))
