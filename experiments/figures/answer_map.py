"""Which layers produce each token of an answered question.

The example of the IG-Lens paper (arXiv 2606.29693): a question as a chat, the model's greedy
answer, the credit of every layer for every token, and the layer in which each token is produced.
"""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from experiments.figures.setting import Drawn, Setting
from experiments.figures.style import COLORS
from iglens_tl import LensResult, ig_lens
from iglens_tl.results.onset import onset_index
from iglens_tl.views.text import show_label

ANSWER_LENGTH = 12
RULES = {
    "mass": "half of all |credit| (the paper's rule)",
    "persistent": "half of the way, and never again less",
}
# Symbol, colour, and how far from the middle of a cell, so that its token can be read.
_MARKERS = {
    "mass": ("triangle-right", COLORS[4], -0.42),
    "persistent": ("triangle-left", COLORS[3], 0.42),
}


def answer_map(setting: Setting) -> Drawn:
    """Answer the question, credit the layers and draw the map."""
    result = ig_lens(setting.adapter, setting.question, generate=ANSWER_LENGTH)
    return Drawn({"answer_map": tidy(result)}, {"answer_map": draw(result)})


def tidy(result: LensResult) -> pd.DataFrame:
    """Return one row for each token and segment, with the token's onsets."""
    table = result.to_frame(tidy=True)
    for rule in RULES:
        table[f"onset, {rule}"] = result.onset(rule=rule).to_numpy().repeat(len(result.segments))
    return table


def draw(result: LensResult) -> go.Figure:
    """Draw the package's map and mark every token's onsets."""
    figure = result.heatmap(title="Which layers produce each token of the answer?")
    for rule, meaning in RULES.items():
        symbol, color, shift = _MARKERS[rule]
        figure.add_scatter(
            x=[place + shift for place in range(len(result.targets))],
            y=onset_index(result, rule=rule).tolist(),
            mode="markers",
            marker={
                "symbol": symbol,
                "size": 14,
                "color": color,
                "line": {"width": 1, "color": "#ffffff"},
            },
            name=f"onset: {meaning}",
            hoverinfo="skip",
        )
    figure.update_xaxes(range=[-0.5, len(result.targets) - 0.5])
    onsets = result.onset()
    context = figure.layout.title.subtitle.text
    figure.layout.coloraxis.colorbar.title.text = f"{result.unit} credit"
    figure.update_layout(
        title={"y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 20}},
        title_subtitle_text=f"{context}<br>{show_label(_finding(onsets))}<br>"
        "words: the most probable token after the layer",
        margin={"t": 130, "b": 150},
        height=figure.layout.height + 110,
        width=max(860, figure.layout.width),
        legend={"orientation": "h", "y": -0.32, "yanchor": "top", "x": 0},
    )
    return figure


def _finding(onsets: pd.Series) -> str:
    counts = onsets.value_counts()
    return (
        f"onsets by the paper's rule lie between {min(onsets, key=_depth)} and "
        f"{max(onsets, key=_depth)}, most often in {counts.index[0]} ({counts.iloc[0]} of "
        f"{len(onsets)} tokens)"
    )


def _depth(segment: str) -> int:
    return -1 if segment == "embed" else int(segment[1:])
