"""Draw activation patching: positions from left to right, layers upwards."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from iglens_tl.results.patching import DIRECTIONS, PatchingResult
from iglens_tl.results.segments import layer_label
from iglens_tl.views.figures.style import PAPER, label_axis, level_scale, signed_scale
from iglens_tl.views.text import shorten, show_label, show_token

_MAX_LABEL = 14
# Room for the sentence below the title.
_MIN_WIDTH = 840


def patching_heatmap(
    data: PatchingResult, *, show: str = "recovered", title: str | None = None
) -> go.Figure:
    """Draw what patching each place does: positions from left to right, layers upwards.

    Where the prompts differ, the axis names the clean and the corrupted token.

    Args:
        data: A result of activation patching.
        show: "recovered" for the fraction of the difference between the runs that a patch recovers
            (or loses), white at 0 and full at 1 or the largest; "value" for the value under the
            patch (probabilities on a fixed 0–1 scale).
        title: Heading; by default what is replaced, and the model.

    Returns:
        The figure; nothing is shown or written.

    Raises:
        ValueError: For an unknown `show`.
    """
    shown = {"recovered": data.recovered, "value": data.values}
    if show not in shown:
        raise ValueError(f"show must be one of {', '.join(shown)}, got {show!r}")
    n_layers, n_positions = data.values.shape
    labels = [layer_label(layer) for layer in range(n_layers)]
    heading = f"{data.direction} at {data.site} — {data.provenance.model_name}"
    figure = go.Figure(
        go.Heatmap(
            z=shown[show].tolist(),
            x=list(range(n_positions)),
            y=list(range(n_layers)),
            hovertext=[
                [_hover(data, layer, position) for position in range(n_positions)]
                for layer in range(n_layers)
            ],
            hoverinfo="text",
            xgap=1,
            ygap=1,
            coloraxis="coloraxis",
        )
    )
    figure.update_layout(
        PAPER,
        title={
            "text": show_token(title or heading),
            "subtitle": {"text": _subtitle(data)},
        },
        width=max(_MIN_WIDTH, 220 + 62 * n_positions),
        height=max(340, 240 + 26 * n_layers),
        margin={"l": 70, "r": 30, "t": 90, "b": 120},
        coloraxis={
            "colorbar": {"title": {"text": _what(data, show), "side": "top"}, "thickness": 14},
            **_colors(data, shown[show], show),
        },
    )
    tokens = [_tokens(data, position) for position in range(n_positions)]
    what = "position (clean | corrupted token where they differ)"
    figure.update_xaxes(label_axis(tokens, title_text=what, tickangle=-45))
    figure.update_yaxes(label_axis(list(map(show_label, labels)), title_text="layer"))
    return figure


def _subtitle(data: PatchingResult) -> str:
    answer = show_token(data.target.token)
    return (
        f"{answer}: {data.unit} {data.clean_value:.3g} clean, {data.corrupted_value:.3g} "
        f"corrupted; {DIRECTIONS[data.direction]}"
    )


def _what(data: PatchingResult, show: str) -> str:
    if show == "value":
        return data.unit
    return "recovered" if data.direction == "denoising" else "lost"


def _colors(data: PatchingResult, numbers: np.ndarray, show: str) -> dict[str, object]:
    if show == "value":
        return level_scale(data.unit)
    # A fraction that is small everywhere is to look small.
    return signed_scale([numbers, np.ones(1)])


def _tokens(data: PatchingResult, position: int) -> str:
    clean, corrupted = data.clean, data.corrupted
    token = shorten(clean.tokens[position], _MAX_LABEL)
    if clean.ids[position] == corrupted.ids[position]:
        return token
    return f"{token} | {shorten(corrupted.tokens[position], _MAX_LABEL)}"


def _hover(data: PatchingResult, layer: int, position: int) -> str:
    lines = [
        f"<b>{_tokens(data, position)}</b>",
        f"position {position}, {data.site} of <b>{layer_label(layer)}</b> replaced",
        f"{show_token(data.target.token)} {data.values[layer, position]:.6f} {data.unit}",
        f"{_what(data, 'recovered')} {data.recovered[layer, position]:+.4f}",
        f"clean {data.clean_value:.6f}, corrupted {data.corrupted_value:.6f}",
    ]
    return "<br>".join(lines)
