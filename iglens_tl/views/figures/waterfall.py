"""Draw how one token's value is built up, from the baseline to the last segment."""

from __future__ import annotations

import plotly.graph_objects as go

from iglens_tl.results.contributors import (
    check_additive,
    check_top,
    count_others,
    largest,
)
from iglens_tl.results.data import LensData
from iglens_tl.results.targets import find_target
from iglens_tl.views.figures.labels import (
    context_of,
    hover_text,
    show_segment,
    sum_hover_text,
)
from iglens_tl.views.figures.style import NEGATIVE, NEUTRAL, PAPER, POSITIVE
from iglens_tl.views.text import show_token


def waterfall(data: LensData, target: int | str, *, top: int | None = None) -> go.Figure:
    """Draw the values of one target as steps that end at its final value.

    What the values miss of the total stands as a bar of its own, "unexplained".

    Args:
        data: A result of an additive lens.
        target: Which target: its row number in the table, or its token if that is unique.
        top: How many segments have a bar of their own, those of largest |credit|, in model order;
            one bar sums up the others. By default all.

    Returns:
        The figure; nothing is shown or written.

    Raises:
        ValueError: For a lens that is not additive, an unknown or ambiguous target or `top` below
            1.
    """
    check_additive(data)
    check_top(top)
    row = find_target(data, target)
    named = data.targets[row]
    shown, others = largest(data.values[row], top)
    bars = [
        _bar(show_segment(data, row, i), data.values[row, i], hover_text(data, row, i))
        for i in sorted(shown.tolist())
    ]
    if len(others):
        name = count_others(len(others))
        hover = sum_hover_text(data, row, name, others.tolist())
        bars.append(_bar(name, data.values[row, others].sum(), hover))
    missing = float(data.final[row] - data.baseline[row] - data.sums[row])
    hover = f"unexplained {missing:+.3g} {data.unit}"
    bars.append(("unexplained", missing, f"{missing:+.0e}", hover))
    start, end = float(data.baseline[row]), float(data.final[row])
    figure = go.Figure(
        go.Waterfall(
            x=["baseline", *(label for label, _, _, _ in bars), "final"],
            y=[start, *(height for _, height, _, _ in bars), end],
            measure=["absolute", *["relative"] * len(bars), "total"],
            text=[f"{start:.3f}", *(text for _, _, text, _ in bars), f"{end:.3f}"],
            textposition="outside",
            constraintext="none",
            textfont={"size": 11},
            cliponaxis=False,
            hovertext=[
                f"baseline {start:.6f} {data.unit}",
                *(hover for _, _, _, hover in bars),
                f"final {end:.6f} {data.unit}",
            ],
            hoverinfo="text",
            increasing={"marker": {"color": POSITIVE}},
            decreasing={"marker": {"color": NEGATIVE}},
            totals={"marker": {"color": NEUTRAL}},
        )
    )
    figure.update_layout(
        PAPER,
        title={
            "text": f"{data.name}: {show_token(named.token)} read at position {named.position}",
            "subtitle": {"text": context_of(data, row)},
        },
        width=max(560, 180 + 52 * (len(bars) + 2)),
        # Room for the labels, which stand aslant below the bars.
        height=400 + 4 * max(len(label) for label, _, _, _ in bars),
    )
    figure.update_yaxes(title_text=data.unit)
    figure.update_xaxes(type="category", tickangle=-45)
    return figure


def _bar(label: str, height: float, hover: str) -> tuple[str, float, str, str]:
    return label, float(height), f"{height:+.3f}", hover
