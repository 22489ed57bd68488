"""Figures of the study."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.path_study.conditions import DEFAULT, ORDERS, VALUES, of_order
from experiments.path_study.measuring import EFFECTS
from experiments.path_study.responses import NUMBERS
from experiments.path_study.study import RIGHT, Study, values_of
from iglens_tl.views.figures import Figure

_TITLES = {"prob": "p", "logprob": "log p (nats)", "logit_difference": "logit difference"}
_COLORS: dict[str, str] = dict(zip(VALUES, ("#2166ac", "#b2182b", "#1b7837"), strict=True))
_LINES = {
    "hidden_states": ("#2166ac", "solid"),
    "sublayers": ("#2166ac", "dot"),
    "reverse": ("#b2182b", "solid"),
    "straight": ("#e08214", "solid"),
    "straight_projected": ("#e08214", "dash"),
    "straight_uniform": ("#e08214", "dot"),
    "shapley_frozen": ("#1b7837", "dash"),
    "shapley_skip": ("#1b7837", "solid"),
    "leave_one_out": ("#762a83", "solid"),
}


def all_figures(study: Study, responses: pd.DataFrame) -> dict[str, Figure]:
    """Return the figures by name."""
    return {
        "depth": depth_profiles(study),
        "stability": stability_maps(responses),
        "centre": centres(responses),
        "agreement": agreement_dots(responses),
    }


def depth_profiles(study: Study) -> go.Figure:
    """Draw the mean credit of every layer, a line for each order and a panel for each value."""
    figure = _panels([_TITLES[value] for value in VALUES], shared=False)
    right = study.groups()[RIGHT]
    for column, value in enumerate(VALUES, start=1):
        for order in ORDERS:
            condition = of_order(order, value=value)
            if condition not in study.credits or order == "sublayers":
                continue
            credits = study.layer_credits(condition)
            color, dash = _LINES[order]
            figure.add_scatter(
                x=list(credits.columns),
                y=values_of(credits)[right].mean(axis=0),
                mode="lines+markers",
                marker={"size": 5},
                line={"color": color, "dash": dash, "width": 2},
                name=order,
                legendgroup=order,
                showlegend=column == 1,
                row=1,
                col=column,
            )
    figure.update_xaxes(title_text="layer")
    figure.update_layout(
        _LAYOUT, title="Mean credit of each layer, by order", width=1250, height=460
    )
    return figure


def stability_maps(responses: pd.DataFrame) -> go.Figure:
    """Draw Kendall's τ between all pairs of orders, a map for each value."""
    figure = _panels([_TITLES[value] for value in VALUES], shared=True)
    rows = _of_right(responses, "kendall of orders")
    orders = [o for o in ORDERS if o in {*rows["order"], *rows["against"]}]
    for column, value in enumerate(VALUES, start=1):
        table = np.eye(len(orders))
        for row in rows.loc[rows["value"] == value].to_dict("records"):
            if pd.notna(row["mean"]):
                pair = orders.index(row["against"]), orders.index(row["order"])
                table[pair] = table[pair[::-1]] = row["mean"]
        figure.add_heatmap(
            z=table,
            x=orders,
            y=orders,
            zmin=-1,
            zmax=1,
            colorscale="RdBu_r",
            texttemplate="%{z:.2f}",
            textfont={"size": 10},
            showscale=False,
            row=1,
            col=column,
        )
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(tickangle=45)
    figure.update_layout(
        _LAYOUT | {"margin": {"l": 130, "r": 20, "t": 90, "b": 130}},
        title="Kendall's τ over the layers between orders, mean over items",
        width=1350,
        height=600,
    )
    return figure


def centres(responses: pd.DataFrame) -> go.Figure:
    """Draw the centre of |credit| over the layers, with intervals, by order and value."""
    figure = go.Figure()
    rows = _of_right(responses, "centre of mass")
    rows = rows.loc[rows["baseline"] == DEFAULT.baseline]
    for place, value in enumerate(VALUES):
        own = rows.loc[rows["value"] == value]
        _add_dots(figure, own, "order", value, place)
    _name_orders(figure)
    figure.update_xaxes(title_text="centre of |credit|, in layers (0 is the first)")
    figure.update_layout(
        _LAYOUT | {"margin": {"l": 140, "r": 20, "t": 80, "b": 60}},
        title="Where in depth credit lies, with 95 % intervals over prompts",
        width=900,
        height=480,
    )
    return figure


def agreement_dots(responses: pd.DataFrame) -> go.Figure:
    """Draw Spearman's correlation with effects, a panel for each intervention."""
    figure = _panels(list(EFFECTS), shared=True)
    rows = _of_right(responses, "agreement")
    rows = rows.loc[rows["baseline"] == DEFAULT.baseline]
    for column, name in enumerate(EFFECTS, start=1):
        for place, value in enumerate(VALUES):
            own = rows.loc[(rows["value"] == value) & (rows["against"] == name)]
            _add_dots(figure, own, "order", value, place, row=1, col=column)
    _name_orders(figure)
    figure.update_xaxes(title_text="Spearman's ρ", zeroline=True, zerolinecolor="#a6a6a6")
    figure.update_layout(
        _LAYOUT | {"margin": {"l": 140, "r": 20, "t": 100, "b": 60}},
        title="Agreement with effects of interventions, with 95 % intervals over prompts",
        width=1300,
        height=520,
    )
    return figure


_LAYOUT: dict[str, Any] = {
    "template": "plotly_white",
    "margin": {"l": 60, "r": 20, "t": 90, "b": 60},
}


def _panels(titles: list[str], *, shared: bool) -> go.Figure:
    return make_subplots(
        rows=1,
        cols=len(titles),
        subplot_titles=titles,
        shared_yaxes=shared,
        horizontal_spacing=0.02 if shared else 0.05,
    )


def _add_dots(
    figure: go.Figure, rows: pd.DataFrame, column: str, value: str, place: int, **where: int
) -> None:
    rows = rows.loc[rows["mean"].notna()]
    mean, low, high = (rows[name].astype(float).fillna(rows["mean"]) for name in NUMBERS)
    figure.add_scatter(
        x=mean,
        y=[ORDERS.index(order) + 0.22 * (place - 1) for order in rows[column]],
        error_x={
            "array": high - mean,
            "arrayminus": mean - low,
            "symmetric": False,
            "thickness": 1.2,
            "width": 0,
        },
        mode="markers",
        marker={"color": _COLORS[value], "size": 7},
        name=_TITLES[value],
        legendgroup=value,
        showlegend=where.get("col", 1) == 1,
        **where,
    )


def _name_orders(figure: go.Figure) -> None:
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(ORDERS))),
        ticktext=list(ORDERS),
        range=[len(ORDERS) - 0.5, -0.5],
        zeroline=False,
    )


def _of_right(responses: pd.DataFrame, response: str) -> pd.DataFrame:
    return responses.loc[(responses["response"] == response) & (responses["group"] == RIGHT)]
