"""Draw several lenses side by side: a map for each, and one token's way through the layers."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from iglens_tl.results.data import LensData
from iglens_tl.results.segments import parse_segment
from iglens_tl.results.targets import find_target
from iglens_tl.views.figures.labels import column_labels, context_of, hover_text, top_labels
from iglens_tl.views.figures.style import (
    PAPER,
    label_axis,
    level_scale,
    line_style,
    signed_scale,
)
from iglens_tl.views.text import show_label, show_token

_MAX_TARGETS_SIDE_BY_SIDE = 14
_COLOR_BAR_WIDTH = 110
_LEGEND_ENTRY_WIDTH = 230


def comparison_figure(
    results: Sequence[LensData], *, prompt: int = 0, target: int | str | None = None
) -> go.Figure:
    """Draw several results for one text: a map for each lens, then lines for one token.

    The maps share their axes, so that zooming into one zooms into all. Credits in the same unit
    share one diverging scale, levels in the same unit one sequential scale.

    Args:
        results: Results for the same targets.
        prompt: Which text of a batch.
        target: Whose levels are drawn as lines, by row number or token; by default the first target
            of the text.

    Returns:
        The figure; nothing is shown or written.

    Raises:
        ValueError: For a prompt without targets or an unknown or ambiguous target.
    """
    first = results[0]
    shown = [i for i, named in enumerate(first.targets) if named.prompt == prompt]
    if not shown:
        raise ValueError(f"the comparison has no target in prompt {prompt}")
    chosen = shown[0] if target is None else find_target(first, target)
    segments = merge_segments(results)
    n_columns = 1 if len(shown) > _MAX_TARGETS_SIDE_BY_SIDE else min(len(results), 2)
    n_map_rows = -(-len(results) // n_columns)
    units = list(dict.fromkeys(data.unit for data in results))
    map_height = 90 + 22 * len(segments)
    figure = make_subplots(
        rows=n_map_rows + len(units),
        cols=n_columns,
        specs=[[{}] * n_columns] * n_map_rows
        + [[{"colspan": n_columns}, *[None] * (n_columns - 1)]] * len(units),
        row_heights=[map_height] * n_map_rows + [240] * len(units),
        subplot_titles=[_title(data) for data in results]
        + [""] * (n_map_rows * n_columns - len(results))
        + [_line_title(first, chosen, unit) for unit in units],
        vertical_spacing=90 / (map_height * n_map_rows + 240 * len(units) + 100),
        horizontal_spacing=0.1,
    )
    axes = _color_axes(results, shown)
    for index, data in enumerate(results):
        row, column = index // n_columns + 1, index % n_columns + 1
        figure.add_trace(_map(data, shown, segments, axes[_scale_of(data)][0]), row=row, col=column)
        matches = {"matches": "x" if index else None, "tickangle": -45}
        figure.update_xaxes(label_axis(column_labels(first, shown), **matches), row=row, col=column)
        labels = label_axis(list(map(show_label, segments)), matches="y" if index else None)
        figure.update_yaxes(labels, row=row, col=column)
    for index, unit in enumerate(units):
        for number, data in enumerate(results):
            if data.unit == unit:
                line = _line(data, chosen, number)
                figure.add_trace(line, row=n_map_rows + index + 1, col=1)
        figure.update_xaxes(type="category", row=n_map_rows + index + 1, col=1)
        figure.update_yaxes(title_text=unit, row=n_map_rows + index + 1, col=1)
    plot_width = n_columns * max(420, 140 + 62 * len(shown))
    legend_height = 24 * -(-len(results) // max(1, plot_width // _LEGEND_ENTRY_WIDTH))
    margin = {
        "l": 50 + 7 * max(len(show_label(segment)) for segment in segments),
        "r": 20 + _COLOR_BAR_WIDTH * len(axes),
        "t": 110,
        "b": 60 + legend_height,
        # Plotly would add up the widths of all colour bars for each of them.
        "autoexpand": False,
    }
    figure.update_layout(
        PAPER,
        title={
            "text": f"{len(results)} lenses — {show_token(first.provenance.model_name)}",
            "subtitle": {"text": context_of(first, shown[0])},
        },
        width=plot_width + margin["l"] + margin["r"],
        height=map_height * n_map_rows + 240 * len(units) + margin["t"] + margin["b"],
        margin=margin,
        legend={"orientation": "h", "y": 0.01, "yref": "container", "yanchor": "bottom"},
    )
    figure.layout.update(dict(axes.values()))
    figure.update_xaxes(showgrid=False, zeroline=False)
    figure.update_yaxes(showgrid=False, zeroline=False)
    return figure


def merge_segments(results: Sequence[LensData]) -> list[str]:
    """Return the segments of all results in one order: embedding, layer by layer, biases."""

    def depth(label: str) -> float:
        segment = parse_segment(label)
        if segment.layer is not None:
            return float(segment.layer)
        return -1.0 if segment.layer_label == "embed" else float("inf")

    names = dict.fromkeys(segment for data in results for segment in data.segments)
    return sorted(names, key=depth)


def _scale_of(data: LensData) -> tuple[str, str]:
    return data.kind, data.unit


def _color_axes(
    results: Sequence[LensData], shown: list[int]
) -> dict[tuple[str, str], tuple[str, dict]]:
    """Return for every kind of number a named colour axis that its lenses share."""
    kinds = list(dict.fromkeys(_scale_of(data) for data in results))
    axes = {}
    for index, (kind, unit) in enumerate(kinds):
        values = [data.values[shown] for data in results if _scale_of(data) == (kind, unit)]
        scale = level_scale(unit) if kind == "level" else signed_scale(values)
        bar = {
            "title": {"text": f"{unit}<br>{kind}", "side": "top"},
            "thickness": 12,
            "len": 0.5,
            "y": 1,
            "yanchor": "top",
            "x": 1,
            "xpad": 10 + _COLOR_BAR_WIDTH * index,
        }
        name = f"coloraxis{index + 1 if index else ''}"
        axes[kind, unit] = (name, {**scale, "colorbar": bar})
    return axes


def _map(data: LensData, shown: list[int], segments: list[str], axis: str) -> go.Heatmap:
    places = {segment: place for place, segment in enumerate(data.segments)}
    values: list[list[float | None]] = []
    hover: list[list[str]] = []
    text: list[list[str]] = []
    tops = top_labels(data, shown)
    for segment in segments:
        place = places.get(segment)
        if place is None:
            values.append([None] * len(shown))
            hover.append([""] * len(shown))
            text.append([""] * len(shown))
            continue
        values.append(data.values[shown, place].tolist())
        hover.append([hover_text(data, target, place) for target in shown])
        text.append(tops[place])
    return go.Heatmap(
        z=values,
        x=list(range(len(shown))),
        y=list(range(len(segments))),
        text=text,
        texttemplate="%{text}",
        textfont={"size": 10},
        hovertext=hover,
        hoverinfo="text",
        hoverongaps=False,
        xgap=1,
        ygap=1,
        coloraxis=axis,
    )


def _line(data: LensData, target: int, number: int) -> go.Scatter:
    return go.Scatter(
        x=[show_label(label) for label in data.segments],
        y=data.levels[target].tolist(),
        name=data.name,
        mode="lines+markers",
        line=line_style(number),
        hovertext=[hover_text(data, target, segment) for segment in range(len(data.segments))],
        hoverinfo="text",
    )


def _title(data: LensData) -> str:
    return f"{data.name}: {data.unit} {data.kind}"


def _line_title(data: LensData, target: int, unit: str) -> str:
    return f"{show_token(data.targets[target].token)}: {unit} after each segment"
