"""The scores as a map: lenses by kinds of models."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.planted.models import KINDS
from experiments.planted.study import summarise

PANELS = (
    ("writers", "mass", "mass on the segments<br>that write the answer"),
    ("necessary", "evenness", "whether all necessary<br>segments are found"),
)
"""Question, score and title of each panel."""


def localisation_map(scores: pd.DataFrame) -> go.Figure:
    """Draw the mean scores of every lens on every kind of model; grey where it is silent."""
    figure = make_subplots(
        cols=len(PANELS),
        rows=1,
        shared_yaxes=True,
        horizontal_spacing=0.02,
        subplot_titles=[title for *_, title in PANELS],
    )
    for column, (question, score, _) in enumerate(PANELS, start=1):
        summary = summarise(scores, question, score)
        lenses = list(summary["lens"].unique())
        kinds = [kind for kind in KINDS if kind in set(summary["kind"])]
        table = summary.pivot(index="lens", columns="kind", values="mean").loc[lenses, kinds]
        figure.add_heatmap(
            z=table,
            x=kinds,
            y=lenses,
            text=[
                ["silent" if pd.isna(z) else f"{z:.2f}" for z in row] for row in table.to_numpy()
            ],
            texttemplate="%{text}",
            hovertemplate="%{y}<br>%{x}: %{text}<extra></extra>",
            zmin=0,
            zmax=1,
            colorscale="Blues",
            xgap=1,
            ygap=1,
            colorbar={"title": "score", "thickness": 12},
            row=1,
            col=column,
        )
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(side="bottom", tickangle=-30)
    figure.update_layout(
        template="plotly_white",
        plot_bgcolor="#eeeeee",
        width=1250,
        height=900,
        margin={"l": 230, "t": 130},
        title="Planted models: where each lens finds what was planted (mean over places and seeds)",
    )
    return figure
