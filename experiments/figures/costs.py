"""Time and memory of every estimator and lens against tokens, layers and vocabulary.

The models are random, as only their sizes matter; the paper (arXiv 2606.29693) states that its map
needs one forward pass and none backward.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.figures.cost_runs import DELTA, FORWARD, METHODS, N_TARGETS, Size, measure_all
from experiments.figures.setting import Drawn, Setting
from experiments.figures.style import COLORS, finish

BASE = Size(tokens=64, layers=4, vocabulary=4_096)
AXES: Mapping[str, Sequence[int]] = {
    "tokens": (16, 64, 256),
    "layers": (4, 8, 16),
    "vocabulary": (4_096, 32_768, 131_072),
}
_NUMBERS = {"seconds": "seconds", "memory_mb": "extra memory (MB)"}
_DASHES = ("solid", "dash", "dot")
_SMALLEST_MB = 0.1


def costs(setting: Setting) -> Drawn:
    """Measure all costs and draw them; they depend on neither model nor prompts."""
    del setting
    table = measure(AXES)
    return Drawn({"costs": table}, {"costs": draw(table)})


def measure(
    axes: Mapping[str, Sequence[int]], methods: Sequence[str] = tuple(METHODS)
) -> pd.DataFrame:
    """Return one row for each method and size: its seconds and its peak of extra memory."""
    sizes = {BASE, *(replace(BASE, **{axis: n}) for axis, of_axis in axes.items() for n in of_axis)}
    return pd.DataFrame(measure_all(methods, sorted(sizes, key=_product)))


def draw(table: pd.DataFrame) -> go.Figure:
    """Draw a column of panels for each axis: seconds above, memory below."""
    by_row: dict[str, Any] = {"shared_yaxes": "rows"}
    figure = make_subplots(
        rows=2,
        cols=len(AXES),
        shared_xaxes=True,
        **by_row,
        horizontal_spacing=0.03,
        vertical_spacing=0.06,
    )
    for column, axis in enumerate(AXES, start=1):
        others = [name for name in AXES if name != axis]
        here = table[(table[others] == [getattr(BASE, name) for name in others]).all(axis=1)]
        for method, look in _looks().items():
            found = here[here["method"] == method].sort_values(axis)
            for row, (what, unit) in enumerate(_NUMBERS.items(), start=1):
                figure.add_scatter(
                    x=found[axis],
                    y=found[what].clip(lower=_SMALLEST_MB if row == 2 else None),
                    name=method,
                    legendgroup=method,
                    showlegend=row == 1 and column == 1 and len(found) > 0,
                    mode="lines+markers",
                    **look,
                    hovertemplate=f"{method}<br>{axis} %{{x}}: %{{y:.3g}} {unit}<extra></extra>",
                    row=row,
                    col=column,
                )
        values = sorted(here[axis].unique())
        figure.update_xaxes(
            type="log", tickvals=values, ticktext=[f"{value:,}" for value in values], col=column
        )
        figure.update_xaxes(title=axis, row=2, col=column)
    figure.update_yaxes(type="log", exponentformat="power", dtick=1)
    for row, unit in enumerate(_NUMBERS.values(), start=1):
        figure.update_yaxes(title=unit, row=row, col=1)
    title = "What do estimators and lenses cost?"
    finish(figure, title, finding(table), width=1200, height=760)
    return figure.update_layout(legend={"orientation": "h", "y": -0.12, "entrywidth": 210})


def finding(table: pd.DataFrame) -> str:
    """Say how many forward passes IG-Lens and the dearest method cost at the middle size."""
    middle = (table[list(AXES)] == [getattr(BASE, name) for name in AXES]).all(axis=1)
    of_base = table[middle].set_index("method")["seconds"]
    ratios = of_base / of_base[FORWARD]
    dearest = str(ratios.idxmax())
    return (
        f"{N_TARGETS} targets, width 128, 1 thread; where not on the axis: {BASE.tokens} tokens, "
        f"{BASE.layers} layers, {BASE.vocabulary:,} words.\nThere a forward pass takes "
        f"{of_base[FORWARD] * 1000:.0f} ms, {DELTA} {ratios[DELTA]:.1f} times as long, "
        f"{dearest} {ratios[dearest]:.0f} times"
    )


def _looks() -> dict[str, dict[str, object]]:
    """Give every lens a colour, and its estimators a dash each."""
    looks = {}
    variants: dict[str, list[str]] = {}
    for method in METHODS:
        variants.setdefault(method.split(",")[0], []).append(method)
    for number, names in enumerate(variants.values()):
        for dash, method in zip(_DASHES, names, strict=False):
            looks[method] = {
                "line": {"color": COLORS[number], "dash": dash},
                "marker": {"size": 7},
            }
    return looks


def _product(size: Size) -> int:
    return size.tokens * size.layers * size.vocabulary
