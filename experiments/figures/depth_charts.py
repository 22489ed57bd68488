"""Charts of how the depth of the residual stream is used."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.figures.style import COLORS, band, finish

_PANELS = (
    (
        "size of what is written / size of the state",
        ("ratio of attention", "ratio of MLP", "ratio of block"),
    ),
    (
        "cosine of what is written with the state",
        ("cosine of attention", "cosine of MLP", "cosine of block"),
    ),
    ("KL of the layer's prediction to the model's (nats)", ("KL to the model",)),
    ("top-5 overlap with the model's prediction", ("top-5 overlap",)),
    (
        "change of the prediction when the block is skipped",
        ("prediction, all tokens", "prediction, future tokens"),
    ),
)
_CAPPED = 1.5
_STATISTICS = {"mean": "mean", "q90": "90 % quantile", "max": "maximum (the paper's)"}


def draw_use(tables: Mapping[str, pd.DataFrame]) -> go.Figure:
    """Draw what blocks write, what can be predicted after them, and depth scores."""
    layers, scores = tables["depth_layers"], tables["depth_scores"]
    n_layers = int(scores["n_layers"].iloc[0])
    figure = make_subplots(
        rows=3,
        cols=2,
        horizontal_spacing=0.1,
        vertical_spacing=0.1,
        subplot_titles=[*(title for title, _ in _PANELS), "depth score by kind of prompt"],
    )
    for panel, (_, quantities) in enumerate(_PANELS):
        row, column = panel // 2 + 1, panel % 2 + 1
        for color, quantity in zip(COLORS, quantities, strict=False):
            found = layers[layers["quantity"] == quantity]
            if len(found):
                _add_lines(figure, found, quantity, color, row, column)
    _add_scores(figure, scores)
    for column in (1, 2):
        figure.update_xaxes(title="layer", row=3, col=1)
        figure.update_yaxes(rangemode="tozero", row=2, col=column)
    figure.update_yaxes(range=[0, _CAPPED], row=1, col=1)
    figure.update_yaxes(title="mean layer, weighted by", row=3, col=2, range=[0, n_layers - 1])
    title = "How does the model use its depth?"
    finish(figure, title, _finding(layers, scores, n_layers), width=1200, height=1180)
    figure.update_layout(
        legend={"orientation": "h", "y": -0.1}, boxmode="group", margin={"t": 160, "b": 150}
    )
    return figure


def draw_skips(skips: pd.DataFrame) -> go.Figure:
    """Draw how skipping a block changes what the later ones write."""
    scopes = list(dict.fromkeys(skips["scope"]))
    figure = make_subplots(
        rows=len(scopes),
        cols=len(_STATISTICS),
        shared_xaxes=True,
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.1,
        subplot_titles=[f"{scope}, {what}" for scope in scopes for what in _STATISTICS.values()],
    )
    n_layers = int(skips["layer"].max()) + 1
    names = [f"L{layer}" for layer in range(n_layers)]
    for row, scope in enumerate(scopes, start=1):
        for column, statistic in enumerate(_STATISTICS, start=1):
            values = np.full((n_layers, n_layers), np.nan)
            of_scope = skips[skips["scope"] == scope]
            values[of_scope["skipped"], of_scope["layer"]] = of_scope[statistic]
            figure.add_heatmap(
                z=[[None if np.isnan(z) else z for z in line] for line in values],
                x=names,
                y=names,
                text=[["" if np.isnan(z) else f"{z:.2f}" for z in line] for line in values],
                texttemplate="%{text}" if n_layers <= 12 else None,
                hovertemplate="%{y} skipped, %{x} changes by %{z:.3f}<extra></extra>",
                hoverongaps=False,
                coloraxis="coloraxis",
                xgap=1,
                ygap=1,
                row=row,
                col=column,
            )
    figure.update_layout(
        coloraxis={
            "colorscale": "Blues",
            "cmin": 0,
            "cmax": 1,
            "colorbar": {"title": {"text": "‖Δ‖ / ‖written‖", "side": "top"}, "thickness": 12},
        }
    )
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False, autorange="reversed")
    figure.update_yaxes(title="skipped block", col=1)
    figure.update_xaxes(title="block that changes", row=len(scopes))
    means = skips.groupby("scope")["mean"].mean()
    largest = skips.groupby("scope")["max"].mean()
    finding = "; ".join(
        f"{scope}: {means[scope]:.2f} in the mean, {largest[scope]:.2f} by the maximum"
        for scope in scopes
    )
    title = "How much do later blocks depend on a block?"
    finish(
        figure,
        title,
        f"relative change of what a later block writes — {finding}",
        width=1250,
        height=240 + 330 * len(scopes),
    )
    return figure


def _add_lines(
    figure: go.Figure, found: pd.DataFrame, quantity: str, color: str, row: int, column: int
) -> None:
    """Add the mean, the area between the quantiles, and the maximum."""
    names = ["embed" if layer < 0 else f"L{layer}" for layer in found["layer"]]
    name = quantity.removeprefix("ratio of ").removeprefix("cosine of ")
    shown = column == 1 and name not in ("KL to the model",)
    figure.add_trace(
        band(names, list(found["q10"]), list(found["q90"]), color), row=row, col=column
    )
    for statistic, line in (("mean", {"width": 2.5}), ("max", {"width": 1.2, "dash": "dot"})):
        figure.add_scatter(
            x=names,
            y=found[statistic],
            name=name,
            legendgroup=name,
            showlegend=shown and statistic == "mean",
            mode="lines+markers" if statistic == "mean" else "lines",
            line={"color": color, **line},
            hovertemplate=f"{quantity}, {statistic}<br>%{{x}}: %{{y:.3f}}<extra></extra>",
            row=row,
            col=column,
        )


def _add_scores(figure: go.Figure, scores: pd.DataFrame) -> None:
    """Add the depth scores of each kind of prompt, one box for each weight."""
    for color, (name, of_score) in zip(
        COLORS[2:], scores.groupby("score", sort=False), strict=False
    ):
        figure.add_box(
            x=of_score["group"],
            y=of_score["depth"],
            name=f"depth score: {name}",
            marker={"color": color, "size": 3},
            line={"width": 1.2},
            row=3,
            col=2,
        )


def _finding(layers: pd.DataFrame, scores: pd.DataFrame, n_layers: int) -> str:
    blocks = layers[layers["quantity"] == "ratio of block"].set_index("layer")
    blocks = (
        blocks
        if len(blocks)
        else layers[layers["quantity"] == "ratio of attention"].set_index("layer")
    )
    half = n_layers // 2
    early, late = blocks.loc[: half - 1, "median"].median(), blocks.loc[half:, "median"].median()
    means = scores.groupby("score", sort=False)["depth"].mean()
    named = ", ".join(f"{value:.1f} by {name}" for name, value in means.items())
    return (
        f"median size of what a block writes: {early:.2f} of the state's in the first half of the "
        f"layers, {late:.2f} in the second\nmean depth score (0 to {n_layers - 1}): {named}\n"
        "lines: mean over positions; areas: from the 10 % to the 90 % quantile; dots: maximum"
    )
