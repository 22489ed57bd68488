"""Figures over all cases: what heads are credited with, and what is left without them."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.components.credits import CREDIT
from experiments.components.outcomes import Outcome

_NAMED = 3
_MEASURES = (CREDIT, "DLA")
_COLORS = {
    "most credited": "#2166ac",
    "most credited, log p": "#4393c3",
    "most credited, logit difference": "#1b7837",
    "most credited, straight path": "#92c5de",
    "largest DLA": "#b2182b",
    "largest DLA, logit difference": "#f4a582",
    "random": "#4d4d4d",
    "smallest absolute credit": "#999999",
    "most negative credit": "#d6a01d",
}


def head_scatter(outcomes: Sequence[Outcome], effect: str = "Δp, mean, last token") -> go.Figure:
    """Draw a point for every head: a row for each family, credit on the left, DLA on the right.

    Args:
        outcomes: What was found for each family.
        effect: The column of the heads' tables on the y axis.
    """
    figure = make_subplots(
        rows=len(outcomes),
        cols=len(_MEASURES),
        shared_yaxes=True,
        vertical_spacing=0.16,
        horizontal_spacing=0.05,
        subplot_titles=[f"{o.family.title}: {name}" for o in outcomes for name in _MEASURES],
    )
    for row, outcome in enumerate(outcomes, start=1):
        for column, name in enumerate(_MEASURES, start=1):
            table = outcome.heads.sort_values(name)
            named = {*table[effect].nlargest(_NAMED).index, *table[name].nlargest(_NAMED).index}
            # Neighbours are named above and below by turns, so that the names do not overlap.
            order = [head for head in table.index if head in named]
            above = {head: place % 2 == 0 for place, head in enumerate(order)}
            figure.add_scatter(
                x=table[name],
                y=table[effect],
                error_x={"array": table[f"±{name}"], "thickness": 0.7, "width": 0},
                error_y={"array": table[f"±{effect}"], "thickness": 0.7, "width": 0},
                mode="markers+text",
                text=[head if head in named else "" for head in table.index],
                textposition=[
                    "top center" if above.get(head, True) else "bottom center"
                    for head in table.index
                ],
                textfont={"size": 11},
                marker={"size": 6, "color": "#2166ac"},
                row=row,
                col=column,
            )
            unit = "probability" if name == CREDIT else "logits"
            figure.update_xaxes(title_text=f"mean {name} ({unit})", row=row, col=column)
        # Room for the names below the lowest points.
        top = float((outcome.heads[effect] + outcome.heads[f"±{effect}"]).max())
        figure.update_yaxes(range=[-0.15 * top, 1.1 * top], row=row)
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


def ablation_curves(outcomes: Sequence[Outcome], kind: str = "mean") -> go.Figure:
    """Draw the probability that is left when more and more heads are ablated at the last token."""
    figure = make_subplots(
        cols=len(outcomes),
        rows=1,
        subplot_titles=[outcome.family.title for outcome in outcomes],
        shared_yaxes=True,
        horizontal_spacing=0.04,
    )
    for column, outcome in enumerate(outcomes, start=1):
        table = outcome.ablations
        table = table[(table["kind"] == kind) & (table["scope"] == "last token")]
        for order, color in _COLORS.items():
            line = table[table["order"] == order]
            figure.add_scatter(
                x=[0, *line["heads"]],
                y=[outcome.clean[0], *line["p"]],
                error_y={"array": [0, *line["±p"]], "thickness": 0.8, "width": 2},
                mode="lines+markers",
                line={"color": color, "width": 2},
                name=order,
                legendgroup=order,
                showlegend=column == 1,
                row=1,
                col=column,
            )
        ticks = [0, *table["heads"].unique()]
        figure.update_xaxes(title_text="heads ablated", tickvals=ticks, row=1, col=column)
    figure.update_yaxes(title_text="mean probability of the answer", row=1, col=1)
    figure.update_layout(
        template="plotly_white",
        width=1100,
        height=480,
        title=f"What is left of the answer ({kind} ablation at the last token)",
    )
    return figure
