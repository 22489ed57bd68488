"""Draw the map of a result: target tokens from left to right, segments upwards."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from iglens_tl.results.data import LensData
from iglens_tl.views.figures.labels import column_labels, context_of, hover_text, top_labels
from iglens_tl.views.figures.style import PAPER, label_axis, level_scale, signed_scale
from iglens_tl.views.text import show_label, show_token


def heatmap(
    data: LensData, *, prompt: int = 0, show: str = "value", title: str | None = None
) -> go.Figure:
    """Draw a result for one text: target tokens from left to right, segments upwards.

    A cell names the token that is most probable after its segment, where the result has it and
    there are at most 60 targets.

    Args:
        data: A result.
        prompt: Which text of a batch.
        show: "value" for the lens's values; unless they are levels, they are on a diverging scale
            that is white at 0 and symmetric. "level" for what is read out after each segment
            (probabilities on a fixed 0–1 scale). "rank", or the name of one of the result's
            statistics.
        title: Heading; by default the lens and the model.

    Returns:
        The figure; nothing is shown or written.

    Raises:
        ValueError: For an unknown `show` or a prompt without targets.
    """
    shown = _shown(data)
    if show not in shown:
        raise ValueError(f"show must be one of {', '.join(shown)} for this result, got {show!r}")
    targets = [i for i, target in enumerate(data.targets) if target.prompt == prompt]
    if not targets:
        raise ValueError(f"the result has no target in prompt {prompt}")
    values = shown[show][targets].T
    hover = [[hover_text(data, t, s) for t in targets] for s in range(len(data.segments))]
    columns = list(range(len(targets)))
    figure = go.Figure(
        go.Heatmap(
            z=values.tolist(),
            x=columns,
            y=list(range(len(data.segments))),
            text=top_labels(data, targets),
            texttemplate="%{text}",
            textfont={"size": 10},
            hovertext=hover,
            hoverinfo="text",
            xgap=1,
            ygap=1,
            coloraxis="coloraxis",
        )
    )
    heading = title or f"{data.name}: {_what(data, show)} — {data.provenance.model_name}"
    figure.update_layout(
        PAPER,
        title={"text": show_token(heading), "subtitle": {"text": context_of(data, targets[0])}},
        width=max(640, 220 + 62 * len(targets)),
        height=max(340, 220 + 26 * len(data.segments)),
        margin={"l": 70, "r": 30, "t": 90, "b": 100},
        coloraxis={
            "colorbar": {"title": {"text": _unit(data, show), "side": "top"}, "thickness": 14},
            **_colors(data, values, show),
        },
    )
    tokens = column_labels(data, targets)
    figure.update_xaxes(label_axis(tokens, title_text="predicted token", tickangle=-45))
    labels = [show_label(label) for label in data.segments]
    figure.update_yaxes(label_axis(labels, title_text="segment"))
    return figure


def _shown(data: LensData) -> dict[str, np.ndarray]:
    ranks = {} if data.ranks is None else {"rank": data.ranks}
    return {"value": data.values, "level": data.levels, **ranks, **data.statistics}


def _unit(data: LensData, show: str) -> str:
    if show in ("value", "level"):
        return data.unit
    return "rank" if show == "rank" else f"{show} (nats)"


def _what(data: LensData, show: str) -> str:
    if show == "value" and data.kind != "level":
        return f"{data.unit} {data.kind} of each segment"
    return f"{_unit(data, show)} after each segment"


def _colors(data: LensData, values: np.ndarray, show: str) -> dict[str, object]:
    if show == "value" and data.kind != "level":
        return signed_scale([values])
    if show in ("value", "level"):
        return level_scale(data.unit)
    # Low ranks and small divergences are the certain ones, so they are the dark ones.
    return {"colorscale": "Blues", "reversescale": True}
