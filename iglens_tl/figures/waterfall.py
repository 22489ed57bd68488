"""How one token's value is built up, from the baseline to the last segment."""

from __future__ import annotations

import plotly.graph_objects as go

from iglens_tl.figures.hover import hover_text
from iglens_tl.figures.text import show_token
from iglens_tl.results.data import LensData


def waterfall(data: LensData, target: int | str) -> go.Figure:
    """Draw the values of one target as steps that end at its final value.

    What the values miss of the total stands as a bar of its own, "unexplained".

    Args:
        data: A result of an additive lens.
        target: Which target: its row number in the table, or its token if that is unique.

    Raises:
        ValueError: For a lens that is not additive, or an unknown or ambiguous target.
    """
    if not data.additive:
        raise ValueError(f"{data.lens} is not additive, so its values do not add up to a total")
    row = find_target(data, target)
    named = data.targets[row]
    missing = float(data.final[row] - data.baseline[row] - data.sums[row])
    labels = ["baseline", *data.segments, "unexplained", "final"]
    heights = [data.baseline[row], *data.values[row], missing, data.final[row]]
    hover = [
        f"baseline {data.baseline[row]:.6f} {data.unit}",
        *(hover_text(data, row, segment) for segment in range(len(data.segments))),
        f"unexplained {missing:+.3g} {data.unit}",
        f"final {data.final[row]:.6f} {data.unit}",
    ]
    figure = go.Figure(
        go.Waterfall(
            x=labels,
            y=[float(height) for height in heights],
            measure=["absolute", *["relative"] * (len(data.segments) + 1), "total"],
            text=[f"{height:.3f}" for height in heights],
            textposition="outside",
            cliponaxis=False,
            hovertext=hover,
            hoverinfo="text",
            increasing={"marker": {"color": "#2166ac"}},
            decreasing={"marker": {"color": "#b2182b"}},
            totals={"marker": {"color": "#4d4d4d"}},
        )
    )
    figure.update_layout(
        title={"text": f"{data.lens}: {show_token(named.token)} read at position {named.position}"},
        template="plotly_white",
        width=max(560, 180 + 52 * len(labels)),
        height=420,
        hoverlabel={"font": {"family": "monospace"}, "align": "left"},
    )
    figure.update_yaxes(title_text=data.unit)
    figure.update_xaxes(type="category")
    return figure


def find_target(data: LensData, target: int | str) -> int:
    """Return the row of a target given by row number or by token."""
    if isinstance(target, str):
        rows = [i for i, named in enumerate(data.targets) if named.token == target]
        if len(rows) != 1:
            found = "no target" if not rows else f"{len(rows)} targets (rows {rows})"
            raise ValueError(f"{found} with token {target!r}; give a row number")
        return rows[0]
    if not -len(data.targets) <= target < len(data.targets):
        raise ValueError(f"there is no target {target}; rows go from 0 to {len(data.targets) - 1}")
    return target % len(data.targets)
