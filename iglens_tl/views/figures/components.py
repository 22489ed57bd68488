"""Draw one target's credits by head and layer, and by the token that the heads read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from iglens_tl.results.contributors import check_additive, check_has, check_top, largest
from iglens_tl.results.data import LensData
from iglens_tl.results.segments import Segment, head_label, parse_segment
from iglens_tl.results.targets import find_target
from iglens_tl.views.figures.labels import context_of, hover_text, sum_hover_text
from iglens_tl.views.figures.style import PAPER, label_axis, signed_scale
from iglens_tl.views.text import shorten, show_blanks, show_label, show_token

_COLUMN_OF = {
    "attn": "attention",
    "attn_bias": "attention bias",
    "mlp": "MLP",
    "neuron": "MLP",
    "mlp_bias": "MLP",
    "mlp_rest": "MLP",
    "direction": "rest",
    "rest": "rest",
}
_ALL = "all"
_OTHER_HEADS = "other heads"
_MAX_NUMBERED_COLUMNS = 40
_SMALLEST_NUMBERED = 0.01
_MAX_LABEL = 14

Places = dict[tuple[str, str], list[int]]


def head_heatmap(data: LensData, target: int | str) -> go.Figure:
    """Draw one target's credits: heads from left to right, layers upwards.

    To the right of the heads stand the other parts of each layer and, as "all", the sum of its
    row. What no layer does (the embedding, biases of the readout) has only its "all". Credits of a
    head's sources are summed.

    Args:
        data: A result of an additive lens with heads or their sources.
        target: Which target: its row number in the table, or its token if that is unique.

    Returns:
        The figure; nothing is shown or written.

    Raises:
        ValueError: For a result that is not additive or has no heads, or an unknown or ambiguous
            target.
    """
    check_additive(data)
    segments = [parse_segment(label) for label in data.segments]
    heads = {segment.head for segment in segments if segment.head is not None}
    if not heads:
        check_has(data, "head", 'components(…, by="head")')
    row = find_target(data, target)
    found = {_COLUMN_OF.get(segment.part) for segment in segments}
    parts = [name for name in dict.fromkeys(_COLUMN_OF.values()) if name in found]
    head_columns = [f"H{head}" for head in sorted(heads)]
    layers = list(dict.fromkeys(segment.layer_label for segment in segments))
    places: Places = {}
    for place, segment in enumerate(segments):
        column = f"H{segment.head}" if segment.head is not None else _COLUMN_OF.get(segment.part)
        if column is not None:
            places.setdefault((segment.layer_label, column), []).append(place)
        places.setdefault((segment.layer_label, _ALL), []).append(place)
    figure = _map(data, row, layers, [*head_columns, *parts, _ALL], places, bottom=60)
    for border in {len(head_columns), len(head_columns) + len(parts)}:
        figure.add_vline(x=border - 0.5, line={"color": "#4d4d4d", "width": 1.5})
    figure.update_layout(title=_title(data, row, "credit of every head"))
    figure.update_yaxes(title_text="layer")
    return figure


def source_heatmap(
    data: LensData, target: int | str, *, by: str = "layer", top: int = 24
) -> go.Figure:
    """Draw which tokens one target's credit was read from: source tokens on x.

    Args:
        data: A result of an additive lens with the sources of heads.
        target: Which target: its row number in the table, or its token if that is unique.
        by: "layer": a row for each layer, its heads summed; "head": one for each head.
        top: With "head": how many heads have rows of their own, those of largest Σ|credit|.

    Returns:
        The figure; nothing is shown or written.

    Raises:
        ValueError: For a result that is not additive or has no sources, an unknown or ambiguous
            target, another `by` or `top` below 1.
    """
    check_additive(data)
    check_top(top)
    if by not in ("layer", "head"):
        raise ValueError(f'by must be "layer" or "head", got {by!r}')
    check_has(data, "source", 'components(…, by="head_source")')
    row = find_target(data, target)
    named = data.targets[row]
    sources = [
        (place, segment, segment.source)
        for place, segment in enumerate(map(parse_segment, data.segments))
        if segment.source is not None and segment.source <= named.position
    ]
    tokens = data.texts[named.prompt].tokens[: named.position + 1]
    columns = [f"{show_blanks(token)} at position {i}" for i, token in enumerate(tokens)]
    row_of = _rows_by_head(data, row, sources, top) if by == "head" else {}
    places: Places = {}
    for place, segment, source in sources:
        label = row_of.get(_head_name(segment), segment.layer_label)
        for name in (label, _ALL):
            places.setdefault((name, columns[source]), []).append(place)
    labels = [label for label in dict.fromkeys(name for name, _ in places) if label != _ALL]
    # The row of the other heads stands above those that have a name.
    labels = sorted(labels, key=lambda label: label == _OTHER_HEADS)
    figure = _map(data, row, [*labels, _ALL], columns, places, bottom=110)
    figure.add_hline(y=len(labels) - 0.5, line={"color": "#4d4d4d", "width": 1.5})
    figure.update_xaxes(
        title_text="token that was read",
        ticktext=[shorten(token, _MAX_LABEL) for token in tokens],
        tickangle=-45,
    )
    figure.update_yaxes(title_text=by)
    read = sum(data.values[row, place] for place, _, _ in sources)
    what = f"{read:+.4f} of {data.sums[row]:+.4f} {data.unit} was read by attention"
    figure.update_layout(title=_title(data, row, what))
    return figure


def _rows_by_head(
    data: LensData, row: int, sources: Sequence[tuple[int, Segment, int]], top: int
) -> dict[str, str]:
    """Return for every head the row that it stands in: its own or that of the others."""
    sizes: dict[str, float] = {}
    for place, segment, _ in sources:
        name = _head_name(segment)
        sizes[name] = sizes.get(name, 0.0) + abs(float(data.values[row, place]))
    names = list(sizes)
    own = set(largest(np.array(list(sizes.values())), top)[0])
    return {name: name if i in own else _OTHER_HEADS for i, name in enumerate(names)}


def _head_name(segment: Segment) -> str:
    assert segment.layer is not None and segment.head is not None
    return head_label(segment.layer, segment.head)


def _map(
    data: LensData,
    row: int,
    labels: Sequence[str],
    columns: Sequence[str],
    places: Places,
    *,
    bottom: int,
) -> go.Figure:
    """Draw the sums of a target's credits over the segments of each cell.

    `bottom` is the room for the names of the columns, in pixels.
    """
    values = np.full((len(labels), len(columns)), np.nan)
    hover = np.full(values.shape, "", dtype=object)
    for i, label in enumerate(labels):
        for j, column in enumerate(columns):
            cell = places.get((label, column), [])
            if len(cell) == 1:
                hover[i, j] = hover_text(data, row, cell[0])
            elif cell:
                hover[i, j] = sum_hover_text(data, row, f"{label}, {column}", cell)
            if cell:
                values[i, j] = data.values[row, cell].sum()
    figure = go.Figure(
        go.Heatmap(
            z=[[None if np.isnan(value) else value for value in line] for line in values.tolist()],
            x=list(range(len(columns))),
            y=list(range(len(labels))),
            text=_numbers(values),
            texttemplate="%{text}",
            textfont={"size": 10},
            hovertext=hover.tolist(),
            hoverinfo="text",
            hoverongaps=False,
            xgap=1,
            ygap=1,
            coloraxis="coloraxis",
        )
    )
    figure.update_layout(
        PAPER,
        # A cell that cannot have a credit is grey, one whose credit is 0 is white.
        plot_bgcolor="#e6e6e6",
        width=max(640, 200 + 52 * len(columns)),
        height=max(300, 100 + bottom + 28 * len(labels)),
        margin={"l": 90, "r": 30, "t": 90, "b": bottom},
        coloraxis={
            "colorbar": {"title": {"text": data.unit, "side": "top"}, "thickness": 14},
            **signed_scale([values[~np.isnan(values)]]),
        },
    )
    figure.update_xaxes(label_axis([column.replace(" ", "<br>") for column in columns]))
    figure.update_yaxes(label_axis(list(map(show_label, labels))))
    return figure


def _numbers(values: np.ndarray) -> list[list[str]]:
    """Return the numbers to be printed in cells: none where they would not fit or say nothing."""
    limit = max(float(np.nanmax(np.abs(values))), 1e-12)
    # Three digits of the largest number.
    decimals = max(0, 2 - int(np.floor(np.log10(limit))))
    printed = np.abs(values) >= _SMALLEST_NUMBERED * limit
    if values.shape[1] > _MAX_NUMBERED_COLUMNS:
        printed = np.zeros_like(printed)
    return [
        [f"{value:+.{decimals}f}" if shown else "" for value, shown in zip(*line, strict=True)]
        for line in zip(values, printed, strict=True)
    ]


def _title(data: LensData, row: int, what: str) -> dict[str, object]:
    token = show_token(data.targets[row].token)
    model = show_token(data.provenance.model_name)
    return {
        "text": f"{token}: {what} — {model}",
        "subtitle": {"text": context_of(data, row)},
    }
