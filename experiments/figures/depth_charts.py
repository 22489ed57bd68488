"""Charts of how the depth of the residual stream is used."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.figures.style import COLORS, band, counted, finish

_PANELS = (
    (
        "size of what is written / size of the state (axis ends at 1.5)",
        ("ratio of attention", "ratio of MLP", "ratio of block"),
    ),
    (
        "cosine of what is written with the state",
        ("cosine of attention", "cosine of MLP", "cosine of block"),
    ),
    ("KL(prediction read out at the layer ‖ the model's), in nats", ("KL to the model",)),
    ("top-5 overlap with the model's prediction", ("top-5 overlap",)),
    ("change of the prediction by a skip, all tokens", ("prediction, all tokens",)),
    ("change of the prediction by a skip, future tokens", ("prediction, future tokens",)),
)
_COLOR_OF = {
    "attention": COLORS[0],
    "MLP": COLORS[1],
    "block": COLORS[2],
    "KL to the model": COLORS[3],
    "top-5 overlap": COLORS[4],
    "prediction, all tokens": COLORS[5],
    "prediction, future tokens": COLORS[6],
}
_SCORE_COLORS = COLORS[7:]
_SCORE_ROWS = {"mean": 4, "max": 5}
_CAPPED = 1.5
_STATISTICS = {"mean": "mean", "q90": "90 % quantile", "max": "maximum (the paper's)"}


def draw_use(tables: Mapping[str, pd.DataFrame]) -> go.Figure:
    """Draw what blocks write, what can be predicted after them, and depth scores."""
    layers, scores = tables["depth_layers"], tables["depth_scores"]
    n_layers = int(scores["n_layers"].iloc[0])
    figure = make_subplots(
        rows=5,
        cols=2,
        specs=[[{}, {}]] * 3 + [[{"colspan": 2}, None]] * 2,
        horizontal_spacing=0.08,
        vertical_spacing=0.055,
        subplot_titles=[
            *(title for title, _ in _PANELS),
            "depth score by kind of prompt, a text's effects being means over its positions",
            "the same, a text's effects being maxima over its positions (the paper's)",
        ],
    )
    for panel, (_, quantities) in enumerate(_PANELS):
        row, column = panel // 2 + 1, panel % 2 + 1
        for quantity in quantities:
            found = layers.loc[layers["quantity"] == quantity]
            if len(found):
                _add_lines(figure, found, quantity, row, column)
    _mark_beyond_axis(figure, layers)
    for statistic, row in _SCORE_ROWS.items():
        _add_scores(figure, scores.loc[scores["statistic"] == statistic], row)
        figure.update_yaxes(title="depth score", row=row, col=1, range=[0, n_layers - 1])
    for column in (1, 2):
        figure.update_xaxes(title="layer", row=3, col=column)
        figure.update_yaxes(rangemode="tozero", row=2, col=column)
    figure.update_yaxes(range=[0, _CAPPED], row=1, col=1)
    title = "How does the model use its depth?"
    finding = _finding(tables, n_layers)
    finish(figure, title, finding, width=1200, height=1780)
    figure.update_layout(
        legend={"orientation": "h", "y": -0.04},
        boxmode="group",
        margin={"t": 100 + 16 * finding.count("\n"), "b": 120},
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
            "colorbar": {"title": {"text": _scale_title(skips), "side": "top"}, "thickness": 12},
        }
    )
    figure.update_xaxes(showgrid=False)
    figure.update_yaxes(showgrid=False, autorange="reversed")
    figure.update_yaxes(title="skipped block", col=1)
    figure.update_xaxes(title="block that changes", row=len(scopes))
    finding = ";\n".join(
        f"{scope}: {_means(of_scope)}{_without_first(of_scope)}"
        for scope, of_scope in skips.groupby("scope", sort=False)
    )
    title = "How much do later blocks depend on a block?"
    finish(
        figure,
        title,
        f"relative change of what a later block writes, mean over pairs of blocks —\n{finding}",
        width=1250,
        height=260 + 330 * len(scopes),
    )
    return figure.update_layout(margin={"t": 160})


def _add_lines(
    figure: go.Figure, found: pd.DataFrame, quantity: str, row: int, column: int
) -> None:
    """Add the mean, the area between the quantiles, and the maximum."""
    names = ["embed" if layer < 0 else f"L{layer}" for layer in found["layer"]]
    name = quantity.removeprefix("ratio of ").removeprefix("cosine of ")
    color = _COLOR_OF[name]
    is_named = (row, column) == (1, 1)
    figure.add_trace(
        band(names, list(found["q10"]), list(found["q90"]), color), row=row, col=column
    )
    for statistic, line in (("mean", {"width": 2.5}), ("max", {"width": 1.2, "dash": "dot"})):
        figure.add_scatter(
            x=names,
            y=found[statistic],
            name=name,
            legendgroup=name,
            showlegend=is_named and statistic == "mean",
            mode="lines+markers" if statistic == "mean" else "lines",
            line={"color": color, **line},
            hovertemplate=f"{quantity}, {statistic}<br>%{{x}}: %{{y:.3f}}<extra></extra>",
            row=row,
            col=column,
        )


def _mark_beyond_axis(figure: go.Figure, layers: pd.DataFrame) -> None:
    """Say in the first panel which means its axis leaves out."""
    beyond = layers[layers["quantity"].isin(_PANELS[0][1]) & (layers["mean"] > _CAPPED)]
    for layer, rows in beyond.groupby("layer"):
        named = ", ".join(
            f"{quantity.removeprefix('ratio of ')} {mean:.2g}"
            for quantity, mean in zip(rows["quantity"], rows["mean"], strict=True)
        )
        figure.add_annotation(
            x=f"L{layer}",
            y=_CAPPED,
            text=f"↑ L{layer}: {named}",
            showarrow=False,
            xanchor="left",
            yanchor="top",
            bgcolor="rgba(255, 255, 255, 0.85)",
            row=1,
            col=1,
        )


def _add_scores(figure: go.Figure, scores: pd.DataFrame, row: int) -> None:
    """Add the depth scores of each kind of prompt, one box for each weight."""
    by_score = scores.groupby("score", sort=False)
    for color, (name, of_score) in zip(_SCORE_COLORS, by_score, strict=True):
        counts = of_score.groupby("group")["depth"].size()
        figure.add_box(
            x=[f"{group}<br>n = {counts[group]}" for group in of_score["group"]],
            y=of_score["depth"],
            name=f"depth score: {name}",
            legendgroup=f"score {name}",
            offsetgroup=str(name),
            showlegend=row == min(_SCORE_ROWS.values()),
            marker={"color": color, "size": 3},
            line={"width": 1.2},
            row=row,
            col=1,
        )


def _finding(tables: Mapping[str, pd.DataFrame], n_layers: int) -> str:
    scores, layers = tables["depth_scores"], tables["depth_layers"]
    scores = scores[scores["statistic"] == "mean"]
    means = scores.groupby("score", sort=False)["depth"].mean()
    named = ", ".join(f"{value:.1f} by {name}" for name, value in means.items())
    said = [
        f"median size of what a block writes, the state's being 1: {_sizes(layers, n_layers)}",
        f"mean depth score (0 to {n_layers - 1}) over {counted(len(scores) // len(means), 'text')}:"
        f" {named}",
        f"(effects that are all equal give {(n_layers - 1) / 2:.1f}; on later layers "
        f"{(n_layers - 2) / 2:.1f}, as there is none above the last)",
    ]
    differences = tables["depth_differences"]
    differences = differences.loc[differences["statistic"] == "mean"]
    for control, rows in differences.groupby("control", sort=False):
        numbers = ", ".join(
            f"{row['mean']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}] by {row['score']}"
            for row in rows.to_dict(orient="records")
        )
        said.append(f"two hops minus {control}: {numbers}")
    intervals = "; [ ]: 95 % bootstrap intervals" if len(differences) else ""
    said.append(
        "lines: mean over positions; areas: from the 10 % to the 90 % quantile; dotted: maximum"
        + intervals
    )
    return "\n".join(said)


def _sizes(layers: pd.DataFrame, n_layers: int) -> str:
    """Name the median sizes of the first block, and of the two halves of the others."""
    # Not every model has MLPs.
    has_blocks = (layers["quantity"] == "ratio of block").any()
    written = "ratio of block" if has_blocks else "ratio of attention"
    medians = layers[layers["quantity"] == written].set_index("layer")["median"]
    half = n_layers // 2
    parts = [(0, 0), (1, half - 1), (max(half, 1), n_layers - 1)]
    return ", ".join(
        f"{medians.loc[first:last].median():.2f} in L{first}"
        + (f" to L{last}" if last > first else "")
        for first, last in parts
        if first <= last
    )


def _means(skips: pd.DataFrame) -> str:
    return f"{skips['mean'].mean():.2f} in the mean, {skips['max'].mean():.2f} by the maximum"


def _without_first(skips: pd.DataFrame) -> str:
    later = skips.loc[skips["skipped"] > 0]
    return f" (without skips of L0 {_means(later)})" if len(later) else ""


def _scale_title(skips: pd.DataFrame) -> str:
    largest = skips["max"].max()
    beyond = f"<br>darkest from 1 on<br>(up to {largest:.1f})" if largest > 1 else ""
    return f"‖Δ‖ / ‖written‖{beyond}"
