"""Credits by kind of token and layer, a panel for each model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from iglens_tl.corpus import CorpusSummary
from iglens_tl.views.figures.style import DIVERGING, PAPER

_SHOWN: dict[str, str] = {
    "mean": "mean credit of p",
    "share": "share of |credit|",
    "onset": "share of onsets",
}
_SCALES: dict[str, dict[str, Any]] = {
    "mean": {"colorscale": DIVERGING, "zmid": 0},
    "share": {"colorscale": "Blues", "zmin": 0},
    "onset": {"colorscale": "Blues", "zmin": 0},
}


def kinds_figure(found: Mapping[str, CorpusSummary]) -> go.Figure:
    """Draw maps of kinds by layers: a row for each model, a column for each number."""
    figure = make_subplots(
        rows=len(found),
        cols=len(_SHOWN),
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.2,
        subplot_titles=[f"{name}: {label}" for name in found for label in _SHOWN.values()],
    )
    for row, summary in enumerate(found.values(), start=1):
        for column, number in enumerate(_SHOWN, start=1):
            table = summary.to_frame(number, by="kind")
            targets = summary.onsets.query("grouping == 'kind'").groupby("group")["targets"].first()
            figure.add_heatmap(
                z=table,
                x=list(table.columns),
                y=[f"{group} ({targets[group]:,})" for group in table.index],
                text=[
                    [f"{z:+.2f}" if number == "mean" else f"{z:.2f}" for z in line]
                    for line in table.to_numpy()
                ],
                texttemplate="%{text}",
                hovertemplate="%{y}<br>%{x}: %{text}<extra></extra>",
                showscale=False,
                xgap=1,
                ygap=1,
                row=row,
                col=column,
                **_SCALES[number],
            )
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(
        PAPER,
        width=1260,
        height=170 + 260 * len(found),
        margin={"l": 170, "r": 20, "t": 110, "b": 40},
        title="What layers do by kind of token (in brackets: targets)",
    )
    return figure
