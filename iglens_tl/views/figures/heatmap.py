"""The token × segment map."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from iglens_tl.results.data import LensData
from iglens_tl.views.figures.hover import hover_text
from iglens_tl.views.figures.scales import level_scale, signed_scale
from iglens_tl.views.figures.text import shorten, show_label, show_token

_MAX_LABEL = 14
_MAX_CELL = 8
_MAX_NAMED_COLUMNS = 60
_MAX_CONTEXT = 90


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
    heading = title or f"{data.lens}: {_what(data, show)} — {data.provenance.model.get('name', '')}"
    figure.update_layout(
        title={"text": show_token(heading), "subtitle": {"text": context_of(data, targets[0])}},
        template="plotly_white",
        width=max(640, 220 + 62 * len(targets)),
        height=max(340, 220 + 26 * len(data.segments)),
        margin={"l": 70, "r": 30, "t": 90, "b": 100},
        hoverlabel={"font": {"family": "monospace"}, "align": "left"},
        coloraxis={
            "colorbar": {"title": {"text": _unit(data, show), "side": "top"}, "thickness": 14},
            **_colors(data, values, show),
        },
    )
    figure.update_xaxes(
        title_text="predicted token",
        tickmode="array",
        tickvals=columns,
        ticktext=column_labels(data, targets),
        tickangle=-45,
        showgrid=False,
        zeroline=False,
    )
    figure.update_yaxes(
        title_text="segment",
        tickmode="array",
        tickvals=list(range(len(data.segments))),
        ticktext=[show_label(label) for label in data.segments],
        showgrid=False,
        zeroline=False,
    )
    return figure


def _shown(data: LensData) -> dict[str, np.ndarray]:
    ranks = {} if data.ranks is None else {"rank": data.ranks}
    return {"value": data.values, "level": data.levels, **ranks, **data.statistics}


def _unit(data: LensData, show: str) -> str:
    if show in ("value", "level"):
        return data.unit
    return "rank" if show == "rank" else f"{show} (nats)"


def column_labels(data: LensData, targets: list[int]) -> list[str]:
    """Return the targets as labels of an axis."""
    return [shorten(data.targets[target].token, _MAX_LABEL) for target in targets]


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


def top_labels(data: LensData, targets: list[int]) -> list[list[str]]:
    """Return for every segment and target the most probable token, where it is to be named."""
    if data.top is None or len(targets) > _MAX_NAMED_COLUMNS:
        return [[""] * len(targets) for _ in data.segments]
    return [
        [shorten(data.top.tokens[int(data.top.ids[t, s, 0])], _MAX_CELL) for t in targets]
        for s in range(len(data.segments))
    ]


def context_of(data: LensData, target: int) -> str:
    """Return the end of the text that a target continues."""
    named = data.targets[target]
    before = "".join(data.texts[named.prompt].tokens[: named.position + 1])
    return show_token(before if len(before) <= _MAX_CONTEXT else "…" + before[-_MAX_CONTEXT:])
