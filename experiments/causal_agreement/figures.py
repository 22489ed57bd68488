"""The experiment's pictures."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.causal_agreement import measures as m
from experiments.causal_agreement.comparison import WITHOUT_FIRST
from experiments.causal_agreement.markdown import EFFECTS, SHOWN
from experiments.causal_agreement.study import (
    LAYERS,
    NULL_CREDITS,
    RANDOM_CREDITS,
    RANDOM_MODEL,
    RANDOM_TOKEN,
    TRAINED,
)
from experiments.causal_agreement.summary import ALL, select
from iglens_tl.evaluation.agreement import SKIP_CURVES
from iglens_tl.results.agreement import SHUFFLED

_PROFILE_COLORS = {
    m.IG_LENS: "#2166ac",
    m.SKIP: "#b2182b",
    m.SKIP_LAST: "#f4a582",
    m.RESAMPLE: "#4d4d4d",
}
_NULL_COLORS = {
    TRAINED: "#2166ac",
    RANDOM_TOKEN: "#d6a01d",
    RANDOM_MODEL: "#4d4d4d",
    RANDOM_CREDITS: "#bbbbbb",
}
_PROFILE_COLUMNS = 4


def all_figures(table: pd.DataFrame, means: pd.DataFrame) -> dict[str, go.Figure]:
    """Draw everything from the tables of `summarise` and `mean_changes`, by name."""
    return {
        "profiles": profiles(means),
        "agreement": agreement_map(table),
        "families": family_map(table),
        "nulls": null_figure(table),
        "curves": curve_figure(table),
    }


def profiles(means: pd.DataFrame) -> go.Figure:
    """Draw the mean credit of each layer beside its mean effects, a panel for each family."""
    shown = select(means, condition=TRAINED, kind=LAYERS, measure=list(_PROFILE_COLORS))
    families = list(dict.fromkeys(shown["family"]))
    n_rows = -(-len(families) // _PROFILE_COLUMNS)
    figure = make_subplots(
        rows=n_rows,
        cols=_PROFILE_COLUMNS,
        subplot_titles=families,
        vertical_spacing=0.3 / n_rows,
        horizontal_spacing=0.04,
    )
    for place, family in enumerate(families):
        where = {"row": place // _PROFILE_COLUMNS + 1, "col": place % _PROFILE_COLUMNS + 1}
        for name, color in _PROFILE_COLORS.items():
            rows = select(shown, family=family, measure=name)
            figure.add_bar(
                x=rows["segment"],
                y=rows["mean"].astype(float),
                error_y=_errors(rows),
                name=f"credit, {name}" if name == m.IG_LENS else f"effect of {name}",
                marker={"color": color},
                legendgroup=name,
                showlegend=place == 0,
                **where,
            )
    figure.update_yaxes(zeroline=True, zerolinecolor="#888888")
    figure.update_layout(
        template="plotly_white",
        width=1400,
        height=120 + 260 * n_rows,
        margin={"t": 130},
        bargap=0.25,
        legend={"orientation": "h", "y": 1.0 + 0.16 / n_rows, "yanchor": "bottom"},
        title={
            "text": "Credit of p beside effect on p, by layer (means, 95 % intervals)",
            "y": 0.98,
        },
    )
    return figure


def agreement_map(table: pd.DataFrame) -> go.Figure:
    """Draw the mean rank correlation of all credits with all effects, with and without L0."""
    rows = select(table, family=ALL, condition=TRAINED, metric="spearman", effects=EFFECTS)
    panels = {segments: select(rows, segments=segments) for segments in _PANELS}
    return _maps(panels, "effects", "Rank correlation of credits with effects, all families")


def family_map(table: pd.DataFrame) -> go.Figure:
    """Draw the mean rank correlation by family for two interventions, without L0."""
    rows = select(
        table,
        condition=TRAINED,
        metric="spearman",
        segments=LAYERS + WITHOUT_FIRST,
        credits=SHOWN,
    )
    panels = {f"{name}, without L0": select(rows, effects=name) for name in (m.SKIP, m.RESAMPLE)}
    return _maps(panels, "family", "Rank correlation by family (wrong: the control)")


def null_figure(table: pd.DataFrame, effect: str = m.RESAMPLE) -> go.Figure:
    """Draw rank correlations with intervals beside those of the nulls."""
    rows = select(table, family=ALL, metric="spearman", effects=effect)
    figure = make_subplots(cols=2, rows=1, shared_yaxes=True, subplot_titles=list(_PANELS))
    for column, segments in enumerate(_PANELS, start=1):
        here = select(rows, segments=segments)
        chance = select(here, credits=m.IG_LENS + SHUFFLED)
        for name, color in _NULL_COLORS.items():
            of_name = select(here, condition=name, credits=NULL_CREDITS)
            figure.add_scatter(
                x=of_name["mean"].astype(float),
                y=of_name["credits"],
                error_x=_errors(of_name),
                mode="markers",
                marker={"color": color, "size": 9},
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                row=1,
                col=column,
            )
        for mean in chance["mean"].astype(float):
            place: dict[str, Any] = {"row": 1, "col": column}  # plotly says text, and takes numbers
            figure.add_vline(x=mean, line={"dash": "dot", "color": "#888888"}, **place)
    figure.update_xaxes(title_text="Spearman, mean over items (dotted: layers shuffled)")
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(
        template="plotly_white",
        width=1250,
        height=520,
        margin={"l": 170, "t": 100},
        title=f"Credits against the effect of '{effect}', and nulls",
    )
    return figure


def curve_figure(table: pd.DataFrame) -> go.Figure:
    """Draw what share of the oracle's area between the curves each order of credits has."""
    rows = select(
        table, family=ALL, condition=TRAINED, effects=SKIP_CURVES, metric="share_of_oracle"
    )
    rows = rows.dropna(subset="mean").sort_values("mean")
    figure = go.Figure(
        go.Scatter(
            x=rows["mean"].astype(float),
            y=rows["credits"],
            error_x=_errors(rows),
            mode="markers",
            marker={"color": "#2166ac", "size": 8},
        )
    )
    figure.update_xaxes(title_text="share of the oracle's area (random orders 0, single effects 1)")
    figure.update_layout(
        template="plotly_white",
        width=1000,
        height=820,
        margin={"l": 260, "t": 80},
        title="Skipping layers in the order of their credits: area between insertion and deletion",
    )
    return figure


_PANELS = (LAYERS, LAYERS + WITHOUT_FIRST)


def _maps(panels: dict[str, pd.DataFrame], columns: str, title: str) -> go.Figure:
    figure = make_subplots(
        cols=len(panels),
        rows=1,
        shared_yaxes=True,
        horizontal_spacing=0.02,
        subplot_titles=list(panels),
    )
    n_rows = 0
    for column, rows in enumerate(panels.values(), start=1):
        names, shown = (list(dict.fromkeys(rows[key])) for key in ("credits", columns))
        names = [name for name in names if SHUFFLED not in name]
        wide = rows.pivot(index="credits", columns=columns, values="mean").loc[names, shown]
        numbers = wide.astype(float)
        n_rows = max(n_rows, len(names))
        figure.add_heatmap(
            z=numbers,
            x=shown,
            y=names,
            text=[["" if pd.isna(z) else f"{z:.2f}" for z in row] for row in numbers.to_numpy()],
            texttemplate="%{text}",
            hovertemplate="%{y}<br>%{x}: %{text}<extra></extra>",
            zmin=-1,
            zmax=1,
            colorscale="RdBu",
            xgap=1,
            ygap=1,
            colorbar={"title": "ρ", "thickness": 12},
            row=1,
            col=column,
        )
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(tickangle=-35)
    figure.update_layout(
        template="plotly_white",
        plot_bgcolor="#eeeeee",
        width=1400,
        height=260 + 24 * n_rows,
        margin={"l": 240, "t": 90},
        title=title,
    )
    return figure


def _errors(rows: pd.DataFrame) -> dict[str, object]:
    mean, low, high = (rows[name].astype(float) for name in ("mean", "low", "high"))
    above, below = (high - mean).to_numpy(), (mean - low).to_numpy()
    return {"array": above, "arrayminus": below, "symmetric": False, "thickness": 1, "width": 2}
