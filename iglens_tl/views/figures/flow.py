"""Draw flows from components through layers to a target's final value, as a Sankey diagram.

Plotly's own Sankey trace sorts nodes and flows by a relaxation that breaks the order of a model's
layers, so the diagram is drawn here, as filled paths in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from iglens_tl.results.contributors import (
    check_additive,
    check_top,
    count_others,
    largest,
)
from iglens_tl.results.data import LensData
from iglens_tl.results.segments import parse_segment
from iglens_tl.results.targets import find_target
from iglens_tl.views.figures.labels import hover_text, show_segment, sum_hover_text
from iglens_tl.views.figures.style import NEGATIVE, NEUTRAL, PAPER, POSITIVE
from iglens_tl.views.text import show_label, show_token

_LEFT = (0.0, 400.0, 866.0)
_THICKNESS = 14.0
_PAD = 16
_MIN_ROWS = 12
_TOP, _BOTTOM = 90, 30
_LINKS = {
    POSITIVE: "rgba(33,102,172,0.45)",
    NEGATIVE: "rgba(178,24,43,0.45)",
    NEUTRAL: "rgba(77,77,77,0.35)",
}
_EFFECTS = {POSITIVE: "raises by", NEGATIVE: "lowers by", NEUTRAL: "starts with"}


@dataclass(frozen=True)
class _Node:
    label: str
    hover: str
    color: str
    column: int
    # The node that it flows into, by place in the list, and the width of each colour's flow.
    into: int
    flows: dict[str, float]


def sankey(data: LensData, target: int | str, *, top: int = 20) -> go.Figure:
    """Draw how one target's credits flow from components into layers and into the final value.

    A flow is as wide as the |credit|; blue flows raise the value, red ones lower it. Layers follow
    one another upwards.

    Args:
        data: A result of an additive lens.
        target: Which target: its row number in the table, or its token if that is unique.
        top: How many components have a flow of their own, those of largest |credit|; the others
            of each layer flow together.

    Returns:
        The figure; nothing is shown or written.

    Raises:
        ValueError: For a lens that is not additive, an unknown or ambiguous target, `top` below 1,
            or a target without any credit.
    """
    check_additive(data)
    check_top(top)
    row = find_target(data, target)
    nodes = _nodes(data, row, top)
    if all(node.column != 1 or NEUTRAL in node.flows for node in nodes):
        raise ValueError(f"no segment of target {target!r} has a credit, so nothing flows")
    longest = max(sum(node.column == column for node in nodes) for column in range(3))
    height = (_PAD + 10) * max(_MIN_ROWS, longest)
    scale, tops = _layout(nodes, height)
    figure = go.Figure(
        [*_flow_traces(nodes, scale, tops, data.unit), *_node_traces(nodes, scale, tops)]
    )
    for node, size, above in zip(nodes, _sizes(nodes), tops, strict=True):
        is_last = node.column == 2
        figure.add_annotation(
            text=node.label,
            x=_LEFT[node.column] + (-3 if is_last else _THICKNESS + 3),
            y=above + scale * size / 2,
            xanchor="right" if is_last else "left",
            showarrow=False,
            font={"size": 11},
            bgcolor="rgba(255,255,255,0.6)",
            borderpad=0,
        )
    token, model = show_token(data.targets[row].token), show_token(data.provenance.model_name)
    figure.update_layout(
        PAPER,
        title={
            "text": f"{token}: components → layers → final {data.unit} — {model}",
            "subtitle": {"text": _sum_text(data, row)},
        },
        width=_LEFT[-1] + _THICKNESS + 40,
        height=height + _TOP + _BOTTOM,
        margin={"l": 20, "r": 20, "t": _TOP, "b": _BOTTOM},
        showlegend=False,
    )
    figure.update_xaxes(visible=False, range=[0, _LEFT[-1] + _THICKNESS])
    figure.update_yaxes(visible=False, range=[height, 0])
    return figure


def _nodes(data: LensData, row: int, top: int) -> list[_Node]:
    """Return the final value, then from the last to the first every layer, after it its components.

    The nodes of a column stand below one another in the order of this list.
    """
    credits = data.values[row]
    named = set(largest(credits, top)[0].tolist())
    final, baseline = float(data.final[row]), float(data.baseline[row])
    nodes = [_Node(f"final {final:.4f}", _sum_text(data, row), NEUTRAL, 2, 0, {})]
    layers: dict[str, list[int]] = {}
    for place, label in enumerate(data.segments):
        if credits[place]:
            layers.setdefault(parse_segment(label).layer_label, []).append(place)
    for label, places in reversed(layers.items()):
        layer = len(nodes)
        nodes.append(_sum_node(data, row, label, places, column=1, into=0))
        if [data.segments[place] for place in places] == [label]:
            continue
        others = [place for place in places if place not in named]
        if len(others) == 1:
            others = []
        if others:
            name = f"{label}: {count_others(len(others))}"
            nodes.append(_sum_node(data, row, name, others, column=0, into=layer))
        for place in reversed(places):
            if place not in others:
                text = f"{show_segment(data, row, place)} {credits[place]:+.4f}"
                flows = _flows(credits[[place]])
                color = next(iter(flows))
                nodes.append(_Node(text, hover_text(data, row, place), color, 0, layer, flows))
    if baseline:
        text = f"baseline {baseline:.4f}"
        hover = f"{text} {data.unit}"
        nodes.append(_Node(text, hover, NEUTRAL, 1, 0, {NEUTRAL: abs(baseline)}))
    return nodes


def _sum_node(
    data: LensData, row: int, name: str, places: list[int], *, column: int, into: int
) -> _Node:
    credits = data.values[row, places]
    text = f"{show_label(name)} {credits.sum():+.4f}"
    hover = sum_hover_text(data, row, name, places)
    return _Node(text, hover, NEUTRAL, column, into, _flows(credits))


def _flows(credits: Float[np.ndarray, " segment"]) -> dict[str, float]:
    """Return how much the credits raise and lower the value, where they do."""
    widths = {POSITIVE: credits[credits > 0].sum(), NEGATIVE: -credits[credits < 0].sum()}
    return {color: float(width) for color, width in widths.items() if width > 0}


def _sizes(nodes: list[_Node]) -> list[float]:
    """Return the size of every node: what flows out of it, or at the end what flows into it."""
    sizes = [sum(node.flows.values()) for node in nodes]
    sizes[0] = sum(size for node, size in zip(nodes, sizes, strict=True) if node.column == 1)
    return sizes


def _layout(nodes: list[_Node], height: int) -> tuple[float, list[float]]:
    """Return the pixels of one unit of credit, and where every node begins, from the top."""
    sizes = _sizes(nodes)
    columns = [[i for i, node in enumerate(nodes) if node.column == column] for column in range(3)]
    scale = min(
        (height - _PAD * len(members)) / sum(sizes[i] for i in members)
        for members in columns
        if members
    )
    tops = [0.0] * len(nodes)
    for members in columns:
        gap = height - scale * sum(sizes[i] for i in members)
        above = 0.0
        for i in members:
            tops[i] = above + gap / len(members) / 2
            above = tops[i] + scale * sizes[i] + gap / len(members) / 2
    return scale, tops


def _flow_traces(
    nodes: list[_Node], scale: float, tops: list[float], unit: str
) -> list[go.Scatter]:
    """Draw the flows, which leave and enter a node in the order of the list of nodes."""
    along = np.linspace(0, 1, 25)
    rise = along**2 * (3 - 2 * along)
    taken = list(tops)
    traces = []
    for node, start in zip(nodes, tops, strict=True):
        left, right = _LEFT[node.column] + _THICKNESS, _LEFT[nodes[node.into].column]
        for color, width in node.flows.items():
            end = taken[node.into]
            x = left + along * (right - left)
            y = start + rise * (end - start)
            hover = f"{node.label}<br>{_EFFECTS[color]} {width:.6f} {unit}"
            across = scale * width
            traces.append(_shape([*x, *x[::-1]], [*y, *(y[::-1] + across)], _LINKS[color], hover))
            start += across
            taken[node.into] += across
    return traces


def _node_traces(nodes: list[_Node], scale: float, tops: list[float]) -> list[go.Scatter]:
    traces = []
    for node, size, above in zip(nodes, _sizes(nodes), tops, strict=True):
        left, below = _LEFT[node.column], above + max(1.0, scale * size)
        x = [left, left + _THICKNESS, left + _THICKNESS, left]
        traces.append(_shape(x, [above, above, below, below], node.color, node.hover))
    return traces


def _shape(x: Sequence[float], y: Sequence[float], color: str, hover: str) -> go.Scatter:
    return go.Scatter(
        x=[float(place) for place in x],
        y=[float(place) for place in y],
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=color,
        hoveron="fills",
        hoverinfo="text",
        text=hover,
    )


def _sum_text(data: LensData, row: int) -> str:
    flows = _flows(data.values[row])
    raised, lowered = flows.get(POSITIVE, 0.0), flows.get(NEGATIVE, 0.0)
    missing = float(data.final[row] - data.baseline[row] - data.sums[row])
    return (
        f"baseline {data.baseline[row]:.4f} + {raised:.4f} raised (blue) − {lowered:.4f} lowered "
        f"(red) = final {data.final[row]:.4f}, unexplained {missing:+.0e}"
    )
