"""Figures as files that need no network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

import plotly.graph_objects as go
import plotly.io

from iglens_tl.files import write_atomically


def write_html(figures: go.Figure | Sequence[go.Figure], path: str | Path) -> Path:
    """Write one figure, or several below one another, as one self-contained HTML page.

    The page has plotly's script, once, and needs no network.

    Raises:
        ValueError: If there is no figure or the path cannot be written.
    """
    shown = [figures] if isinstance(figures, go.Figure) else list(figures)
    if not shown:
        raise ValueError("there is no figure to write; give at least one")
    parts = [
        plotly.io.to_html(
            figure,
            include_plotlyjs=index == 0,
            include_mathjax=False,
            full_html=False,
            validate=True,
        )
        for index, figure in enumerate(shown)
    ]
    body = "\n".join(parts)
    page = f'<html>\n<head><meta charset="utf-8" /></head>\n<body>\n{body}\n</body>\n</html>\n'
    return write_atomically(path, lambda target: target.write_text(page, encoding="utf-8"))


@cache
def plotly_basic_script() -> str:
    """Return plotly's script for bars and lines, a quarter of the whole one.

    It is plotly.js-basic-dist-min 4.1.1 from npm, as published, under the MIT licence beside it.
    """
    script = files("iglens_tl.views.figures") / "plotly_basic" / "plotly-basic.min.js"
    return script.read_text(encoding="utf-8")
