"""From components through layers to a target's final value, as a Sankey diagram."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float

from iglens_tl.figures.hover import hover_text, show_segment, sum_hover_text
from iglens_tl.figures.scales import NEGATIVE, NEUTRAL, POSITIVE
from iglens_tl.figures.text import show_label, show_token
from iglens_tl.results.contributors import check_additive, check_top, largest
from iglens_tl.results.data import LensData
from iglens_tl.results.segments import parse_segment
from iglens_tl.results.targets import find_target

_COLUMNS = (0.001, 0.45, 0.999)
_PAD = 16
_TOP, _BOTTOM = 90, 30
_LINKS = {
    POSITIVE: "rgba(33,102,172,0.45)",
    NEGATIVE: "rgba(178,24,43,0.45)",
    NEUTRAL: "rgba(77,77,77,0.35)",
}


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
        ValueError: For a lens that is not additive, an unknown or ambiguous target, or `top` below
            1.
    """
    check_additive(data)
    check_top(top)
    row = find_target(data, target)
    nodes = _nodes(data, row, top)
    links = [
        (source, node.into, width, color)
        for source, node in enumerate(nodes)
        for color, width in node.flows.items()
    ]
    if not links:
        raise ValueError(f"no segment of target {target!r} has a credit, so nothing flows")
    longest = max(sum(node.column == column for node in nodes) for column in range(3))
    height = (_PAD + 10) * max(12, longest)
    figure = go.Figure(
        go.Sankey(
            arrangement="snap",
            node={
                "label": [node.label for node in nodes],
                "color": [node.color for node in nodes],
                "customdata": [node.hover for node in nodes],
                "hovertemplate": "%{customdata}<extra></extra>",
                "x": [_COLUMNS[node.column] for node in nodes],
                "y": _places(nodes, height),
                # Whatever has no components of its own stands among the layers.
                "align": "right",
                "pad": _PAD,
                "thickness": 14,
                "line": {"width": 0},
            },
            link={
                "source": [source for source, _, _, _ in links],
                "target": [into for _, into, _, _ in links],
                "value": [width for _, _, width, _ in links],
                "color": [_LINKS[color] for _, _, _, color in links],
                "customdata": [
                    f"{nodes[source].label}<br>{_effect(color)} {width:.6f} {data.unit}"
                    for source, _, width, color in links
                ],
                "hovertemplate": "%{customdata}<extra></extra>",
            },
        )
    )
    named, model = data.targets[row], data.provenance.model.get("name", "")
    figure.update_layout(
        title={
            "text": f"{show_token(named.token)}: components → layers → final {data.unit}"
            f" — {show_token(model)}",
            "subtitle": {"text": _sum_text(data, row)},
        },
        template="plotly_white",
        width=920,
        height=height + _TOP + _BOTTOM,
        margin={"l": 20, "r": 20, "t": _TOP, "b": _BOTTOM},
        hoverlabel={"font": {"family": "monospace"}, "align": "left"},
    )
    return figure


def _nodes(data: LensData, row: int, top: int) -> list[_Node]:
    """Return the final value, then from the last to the first every layer, after it its components.

    Plotly draws the flows into a node in the order of this list.
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
            name = f"{label}: {len(others)} others"
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


def _places(nodes: list[_Node], height: int) -> list[float]:
    """Return where the middle of every node stands, as a part of the height from the top.

    Left alone, plotly sorts the nodes of a column so that flows cross little; here they keep the
    order of the model.
    """
    sizes = [sum(node.flows.values()) for node in nodes]
    sizes[0] = sum(size for node, size in zip(nodes, sizes, strict=True) if node.column == 1)
    columns = [[i for i, node in enumerate(nodes) if node.column == column] for column in range(3)]
    # How plotly scales flows: the fullest column has the padding between its nodes.
    scale = min(
        (height - _PAD * (len(members) - 1)) / sum(sizes[i] for i in members)
        for members in columns
        if members
    )
    middles = [0.5] * len(nodes)
    for members in columns:
        free = height - scale * sum(sizes[i] for i in members)
        above = 0.0
        for i in members:
            extent = scale * sizes[i] + free / len(members)
            middles[i] = (above + extent / 2) / height
            above += extent
    return middles


def _effect(color: str) -> str:
    return {POSITIVE: "raises by", NEGATIVE: "lowers by", NEUTRAL: "starts with"}[color]


def _sum_text(data: LensData, row: int) -> str:
    flows = _flows(data.values[row])
    raised, lowered = flows.get(POSITIVE, 0.0), flows.get(NEGATIVE, 0.0)
    missing = float(data.final[row] - data.baseline[row] - data.sums[row])
    return (
        f"baseline {data.baseline[row]:.4f} + {raised:.4f} raised (blue) − {lowered:.4f} lowered "
        f"(red) = final {data.final[row]:.4f}, unexplained {missing:+.0e}"
    )
