"""Draw how one token's credits depend on the order in which credit is given."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.subplots import make_subplots

from iglens_tl.results.data import LensData
from iglens_tl.results.segments import parse_segment
from iglens_tl.results.targets import find_target
from iglens_tl.views.figures.labels import context_of
from iglens_tl.views.figures.style import (
    LINES,
    PALE,
    PAPER,
    label_axis,
    line_style,
    signed_scale,
)
from iglens_tl.views.text import show_label, show_token

_ROW = 28
_RANGES = 260
_MAX_NUMBERED_SEGMENTS = 24


def path_sensitivity_figure(results: Mapping[str, LensData], *, target: int | str = 0) -> go.Figure:
    """Draw one token's credits under several orders: a map, and their range in every layer.

    The map has a row for each order; below it, a grey bar spans what the orders credit a layer
    with, from the least to the most, with a mark for each order. Credits of sublayers are summed
    over each layer.

    Args:
        results: By order, the credits of the same targets.
        target: Which target: its row number in the table, or its token if that is unique.

    Returns:
        The figure; nothing is shown or written.

    Raises:
        ValueError: For an unknown or ambiguous target.
    """
    first = next(iter(results.values()))
    row = find_target(first, target)
    labels, credits = _by_layer(results, row)
    low, high = credits.min(0), credits.max(0)
    columns = list(range(len(labels)))
    map_height = _ROW * len(results) + 20
    figure = make_subplots(
        rows=2,
        cols=1,
        shared_xaxes=True,
        row_heights=[map_height, _RANGES],
        vertical_spacing=40 / (map_height + _RANGES),
    )
    figure.add_trace(
        go.Heatmap(
            z=credits.tolist(),
            x=columns,
            y=list(range(len(results))),
            text=_numbers(credits),
            texttemplate="%{text}",
            textfont={"size": 10},
            hovertext=[
                [_hover(first, row, path, labels[j], credits[i, j]) for j in columns]
                for i, path in enumerate(results)
            ],
            hoverinfo="text",
            xgap=1,
            ygap=1,
            coloraxis="coloraxis",
        ),
        row=1,
        col=1,
    )
    figure.add_trace(
        go.Bar(
            x=columns,
            y=(high - low).tolist(),
            base=low.tolist(),
            name="range",
            marker={"color": PALE, "opacity": 0.4},
            hovertext=[
                f"<b>{show_label(label)}</b><br>{start:+.6f} to {end:+.6f} {first.unit}"
                f"<br>range {end - start:.6f}"
                for label, start, end in zip(labels, low, high, strict=True)
            ],
            hoverinfo="text",
        ),
        row=2,
        col=1,
    )
    offsets = np.linspace(-0.3, 0.3, len(results)) if len(results) > 1 else np.zeros(1)
    for number, path in enumerate(results):
        marks = go.Scatter(
            x=[column + offsets[number] for column in columns],
            y=credits[number].tolist(),
            name=show_label(path),
            mode="markers",
            marker={
                "color": line_style(number)["color"],
                "size": 7,
                # Colours come again after the last one.
                "symbol": ("circle", "diamond", "square")[number // len(LINES) % 3],
            },
            hovertext=[
                _hover(first, row, path, label, credit)
                for label, credit in zip(labels, credits[number], strict=True)
            ],
            hoverinfo="text",
        )
        figure.add_trace(marks, row=2, col=1)
    token, model = show_token(first.targets[row].token), show_token(first.provenance.model_name)
    longest = max(len(path) for path in results)
    figure.update_layout(
        PAPER,
        title={
            "text": f"{token}: credits under {len(results)} orders — {model}",
            "subtitle": {"text": context_of(first, row)},
        },
        width=max(640, 260 + 7 * longest + 52 * len(labels)),
        height=map_height + _RANGES + 210,
        margin={"l": 40 + 7 * longest, "r": 110, "t": 90, "b": 120},
        legend={"orientation": "h", "y": -0.08 * 400 / (map_height + _RANGES), "yanchor": "top"},
        coloraxis={
            **signed_scale([credits]),
            "colorbar": {
                "title": {"text": first.unit, "side": "top"},
                "thickness": 14,
                "len": map_height,
                "lenmode": "pixels",
                "y": 1,
                "yanchor": "top",
            },
        },
    )
    figure.update_yaxes(
        label_axis(list(map(show_label, results)), autorange="reversed"), row=1, col=1
    )
    figure.update_yaxes(title_text=first.unit, zeroline=True, zerolinecolor=PALE, row=2, col=1)
    figure.update_xaxes(label_axis(list(map(show_label, labels)), tickangle=0))
    return figure


def _by_layer(
    results: Mapping[str, LensData], row: int
) -> tuple[list[str], Float[np.ndarray, "order layer"]]:
    """Return the layers, and what each order credits them with."""
    sums: list[dict[str, float]] = []
    for data in results.values():
        of_layers: dict[str, float] = {}
        for label, credit in zip(data.segments, data.values[row].tolist(), strict=True):
            layer = parse_segment(label).layer_label
            of_layers[layer] = of_layers.get(layer, 0.0) + credit
        sums.append(of_layers)
    labels = list(sums[0])
    return labels, np.array([[of_layers[label] for label in labels] for of_layers in sums])


def _numbers(credits: Float[np.ndarray, "order layer"]) -> list[list[str]]:
    if credits.shape[1] > _MAX_NUMBERED_SEGMENTS:
        return [[""] * credits.shape[1] for _ in credits]
    return [[f"{credit:+.3f}" for credit in line] for line in credits.tolist()]


def _hover(data: LensData, row: int, path: str, label: str, credit: float) -> str:
    named = data.targets[row]
    return (
        f"<b>{show_token(named.token)}</b>  (id {named.token_id})<br>"
        f"segment <b>{show_label(label)}</b> · {show_label(path)}<br>"
        f"credit {credit:+.6f} {data.unit}"
    )
