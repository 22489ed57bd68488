"""A figure of what heads are credited with beside what ablating them does."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.components.credits import CREDIT
from experiments.components.outcomes import Outcome

_NAMED = 3
_COLUMNS = (CREDIT, "DLA")


def scatter(outcomes: Sequence[Outcome], effect: str = "Δp, mean, last token") -> go.Figure:
    """Draw a point for every head: a row for each family, credit on the left, DLA on the right.

    Args:
        outcomes: What was found for each family.
        effect: The column of the heads' tables on the y axis.
    """
    figure = make_subplots(
        rows=len(outcomes),
        cols=len(_COLUMNS),
        shared_yaxes=True,
        vertical_spacing=0.16,
        horizontal_spacing=0.05,
        subplot_titles=[f"{o.family.title}: {name}" for o in outcomes for name in _COLUMNS],
    )
    for row, outcome in enumerate(outcomes, start=1):
        table = outcome.heads
        for column, name in enumerate(_COLUMNS, start=1):
            named = set(table[effect].nlargest(_NAMED).index) | set(
                table[name].nlargest(_NAMED).index
            )
            figure.add_scatter(
                x=table[name],
                y=table[effect],
                error_x={"array": table[f"±{name}"], "thickness": 0.7, "width": 0},
                error_y={"array": table[f"±{effect}"], "thickness": 0.7, "width": 0},
                mode="markers+text",
                text=[head if head in named else "" for head in table.index],
                textposition="top center",
                textfont={"size": 11},
                marker={"size": 6, "color": "#2166ac"},
                row=row,
                col=column,
            )
            unit = "probability" if name == CREDIT else "logits"
            figure.update_xaxes(title_text=f"mean {name} ({unit})", row=row, col=column)
        figure.update_yaxes(
            title_text="p lost by mean ablation<br>at the last token", row=row, col=1
        )
    figure.update_layout(
        template="plotly_white",
        width=1100,
        height=820,
        showlegend=False,
        title="Every head: what it is credited with, and what is lost without it",
    )
    return figure
