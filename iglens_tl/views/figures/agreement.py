"""Draw how credits agree with causal effects: means, mean layers and skip curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from iglens_tl.results.agreement import SHUFFLED
from iglens_tl.results.data import LensData
from iglens_tl.results.segments import parse_segment
from iglens_tl.views.figures.style import (
    LINES,
    NEUTRAL,
    PALE,
    PAPER,
    POSITIVE,
    label_axis,
    line_style,
)
from iglens_tl.views.text import show_label

_ENDS = ("mean", "low", "high")
_REFERENCES = {
    "random": {"color": PALE, "dash": "dash"},
    "oracle": {"color": NEUTRAL, "dash": "dot"},
}
_MOST_TICKS = 16
_CURVES = {"deletion": "first layers skipped", "insertion": "first layers that alone run"}


def agreement_figure(
    table: pd.DataFrame, *, metric: str = "spearman", nulls: Sequence[str] = ()
) -> go.Figure:
    """Draw one metric for all credits, a panel for each kind of effects, with intervals.

    Args:
        table: What `iglens_tl.evaluation.agreement` returns, or several of these tables in one.
        metric: The metric.
        nulls: Names of credits that are drawn in grey, beside those with shuffled layers.

    Returns:
        The figure; nothing is shown or written.

    Raises:
        ValueError: For a metric that the table does not have.
    """
    chosen = table.loc[table["metric"] == metric]
    if chosen.empty:
        known = ", ".join(dict.fromkeys(table["metric"]))
        raise ValueError(f"the table has no metric {metric!r}; it has {known}")
    credits = list(dict.fromkeys(chosen["credits"]))
    panels = list(dict.fromkeys(chosen["effects"]))
    figure = make_subplots(
        rows=1,
        cols=len(panels),
        shared_yaxes=True,
        subplot_titles=[show_label(name) for name in panels],
        horizontal_spacing=0.03,
    )
    for column, name in enumerate(panels, start=1):
        rows = chosen.loc[chosen["effects"] == name]
        for row in rows.to_dict("records"):
            is_null = row["credits"] in nulls or row["credits"].endswith(SHUFFLED)
            place = credits.index(row["credits"])
            figure.add_trace(_dot(row, place, is_null), row=1, col=column)
            if pd.isna(row["mean"]):
                figure.add_annotation(
                    text="undefined",
                    x=0.5,
                    xref="x domain",
                    y=place,
                    showarrow=False,
                    font={"color": PALE, "size": 11},
                    hovertext=show_label(row["note"]),
                    row=1,
                    col=column,
                )
    names = list(map(show_label, credits))
    figure.update_yaxes(label_axis(names, range=[len(credits) - 0.5, -0.5], showgrid=True))
    figure.update_xaxes(zeroline=True, zerolinecolor=PALE, title_text=show_label(metric))
    for column in range(2, len(panels) + 1):
        figure.update_xaxes(matches="x", row=1, col=column)
    items = int(chosen["items"].max())
    figure.update_layout(
        PAPER,
        title={
            "text": f"agreement with causal effects: {show_label(metric)}",
            "subtitle": {"text": f"mean over up to {items} targets, 95 % intervals over prompts"},
        },
        showlegend=False,
        # Names of credits stand left of the first panel.
        margin={"l": 60 + 7 * max(map(len, credits)), "r": 30, "t": 120, "b": 60},
        width=max(520, 120 + 7 * max(map(len, credits)) + 300 * len(panels)),
        height=200 + 28 * len(credits),
    )
    return figure


def layers_figure(credits: Mapping[str, LensData], effects: Mapping[str, LensData]) -> go.Figure:
    """Draw mean credits and mean effects by layer, a panel for each unit of the credits.

    Args:
        credits: By name, of the same targets.
        effects: By intervention, of the same targets and all in one unit.

    Returns:
        The figure; nothing is shown or written.
    """
    units = list(dict.fromkeys(data.unit for data in credits.values()))
    panels: list[tuple[str, str, dict[str, LensData]]] = [
        ("mean credit", unit, {name: d for name, d in credits.items() if d.unit == unit})
        for unit in units
    ]
    panels.append(("mean effect", next(iter(effects.values())).unit, dict(effects)))
    figure = make_subplots(
        rows=1,
        cols=len(panels),
        subplot_titles=[f"{what}, {show_label(unit)}" for what, unit, _ in panels],
        horizontal_spacing=0.08,
    )
    styles = iter(range(len(credits) + len(effects)))
    for column, (what, unit, of_panel) in enumerate(panels, start=1):
        for name, data in of_panel.items():
            labels, means = _mean_changes(data)
            color = LINES[next(styles) % len(LINES)]
            trace = go.Scatter(
                x=labels,
                y=means,
                name=show_label(name),
                legendgroup=what,
                mode="lines+markers",
                line={"color": color, "dash": "solid" if what == "mean credit" else "dash"},
                marker={"size": 6},
                hovertemplate=f"{show_label(name)}<br>%{{x}}: %{{y:+.4f}} {show_label(unit)}"
                "<extra></extra>",
            )
            figure.add_trace(trace, row=1, col=column)
        n_layers = max(len(_mean_changes(data)[0]) for data in of_panel.values())
        figure.update_xaxes(dtick=-(-n_layers // _MOST_TICKS), row=1, col=column)
    last = panels[-1][1]
    for column, (_, unit, _) in enumerate(panels[:-1], start=1):
        if unit == last:
            # Credits and effects in one unit can be compared by height.
            figure.update_yaxes(matches=_axis(len(panels)), row=1, col=column)
    figure.update_yaxes(zeroline=True, zerolinecolor=PALE)
    n_targets = len(next(iter(credits.values())).targets)
    figure.update_layout(
        PAPER,
        title={
            "text": "what lenses credit each layer with, and what taking it out does",
            "subtitle": {"text": f"mean over {n_targets} target{'s' if n_targets > 1 else ''}"},
        },
        width=max(700, 340 * len(panels)),
        height=480,
        margin={"l": 70, "r": 30, "t": 110, "b": 50},
        legend={"orientation": "h", "y": -0.12, "yanchor": "top"},
    )
    return figure


def skip_curves_figure(curves: pd.DataFrame) -> go.Figure:
    """Draw how the value falls and rises along each order of layers, the mean over the targets.

    Args:
        curves: What `SkipCurves.to_frame` returns.

    Returns:
        The figure; nothing is shown or written.
    """
    unit = str(curves["unit"].iloc[0])
    figure = make_subplots(
        rows=1,
        cols=2,
        shared_yaxes=True,
        subplot_titles=list(_CURVES),
        horizontal_spacing=0.04,
    )
    orders = list(dict.fromkeys(curves["order"]))
    spacing = -(-int(curves["layers"].max()) // _MOST_TICKS)
    lines = map(line_style, range(len(orders)))
    styles = {name: _REFERENCES.get(name) or next(lines) for name in orders}
    for column, (curve, axis) in enumerate(_CURVES.items(), start=1):
        for name in orders:
            along = curves[curves["order"] == name].groupby("layers")[curve].mean()
            trace = go.Scatter(
                x=along.index.tolist(),
                y=along.tolist(),
                name=show_label(name),
                legendgroup=name,
                showlegend=column == 1,
                mode="lines+markers",
                line=styles[name],
                marker={"size": 5},
                hovertemplate=f"{show_label(name)}<br>%{{x}} {axis}: %{{y:.4f}} {unit}"
                "<extra></extra>",
            )
            figure.add_trace(trace, row=1, col=column)
        figure.update_xaxes(title_text=axis, dtick=spacing, row=1, col=column)
    n_targets = len(curves[(curves["order"] == orders[0]) & (curves["layers"] == 0)])
    figure.update_yaxes(title_text=unit, row=1, col=1)
    figure.update_layout(
        PAPER,
        title={
            "text": "layers skipped in the order of their credits, most credited first",
            "subtitle": {"text": f"mean over {n_targets} target{'s' if n_targets > 1 else ''}"},
        },
        width=960,
        height=460,
        margin={"l": 70, "r": 30, "t": 110, "b": 60},
    )
    return figure


def _mean_changes(data: LensData) -> tuple[list[str], list[float]]:
    of_blocks = [
        i for i, label in enumerate(data.segments) if parse_segment(label).layer is not None
    ]
    means = data.changes[:, of_blocks].mean(axis=0)
    return [data.segments[i] for i in of_blocks], [float(mean) for mean in means]


def _axis(column: int) -> str:
    return "y" if column == 1 else f"y{column}"


def _dot(row: dict, place: int, is_null: bool) -> go.Scatter:
    color = PALE if is_null else POSITIVE
    mean, low, high = (None if pd.isna(row[name]) else float(row[name]) for name in _ENDS)
    lines = [f"<b>{show_label(row['credits'])}</b>", show_label(str(row["effects"]))]
    lines.append("undefined" if mean is None else f"{row['metric']} {mean:+.4f}")
    bars = None
    if mean is not None and low is not None and high is not None:
        lines[-1] += f"  [{low:+.4f}, {high:+.4f}]"
        bars = {
            "type": "data",
            "symmetric": False,
            "array": [high - mean],
            "arrayminus": [mean - low],
            "thickness": 1.5,
            "width": 4,
        }
    lines.append(f"{row['items']} targets")
    if row["note"]:
        lines.append(show_label(row["note"]))
    return go.Scatter(
        x=[mean],
        y=[place],
        error_x=bars,
        mode="markers",
        marker={"color": color, "size": 9, "symbol": "circle-open" if is_null else "circle"},
        hovertext="<br>".join(lines),
        hoverinfo="text",
    )
