"""Several lenses on one answer, and what a layer's level says of its credit.

The logit lens (nostalgebraist 2020) and the tuned lens (Belrose et al. 2023, arXiv 2303.08112) show
what can be read out after a layer; IG-Lens (arXiv 2606.29693) credits a layer with what it adds;
direct logit attribution (Elhage et al. 2021) is in logits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from experiments.figures.answer_map import ANSWER_LENGTH
from experiments.figures.setting import Drawn, Setting
from experiments.figures.style import COLORS, finish
from iglens_tl import LensComparison, LensResult, compare, ig_lens
from iglens_tl.results.onset import onset_index
from iglens_tl.views.text import show_label, show_token

LENSES = ("logit_lens", "tuned_lens", "ig_lens", "direct_logit_attribution")
HIGH, SMALL = 0.9, 0.05


def lenses(setting: Setting) -> Drawn:
    """Compare the lenses on the answer, and levels with credits on all prompts."""
    comparison = compare(
        setting.adapter, setting.question, generate=ANSWER_LENGTH, lenses=list(LENSES)
    )
    group = setting.prompts
    result = ig_lens(setting.adapter, group.prompts, **group.choice, top_k=0)
    table = level_and_credit(result)
    # What a lens costs is the subject of another figure, and differs from run to run.
    compared = comparison.to_frame(tidy=True).drop(columns="seconds")
    return Drawn(
        {"lenses": compared, "level_and_credit": table},
        {"lenses": draw_lenses(comparison), "level_and_credit": draw_level_and_credit(table)},
    )


def draw_lenses(comparison: LensComparison) -> go.Figure:
    """Draw the package's comparison; the lines are those of the word of latest onset."""
    credits = comparison["ig_lens"]
    is_word = [target.token.strip().isalnum() for target in credits.targets]
    latest = int(np.where(is_word, onset_index(credits), -1).argmax())
    figure = comparison.figure(target=latest)
    # A lens has the same colour in the figure of every model, whichever lenses apply to it.
    lines: Any = figure.select_traces({"type": "scatter"})
    for line in lines:
        line.update(line_color=COLORS[LENSES.index(line.name)])
    agreement = comparison.summary().agreement
    context = figure.layout.title.subtitle.text
    figure.update_layout(
        title={"text": "Do lenses name the same layers?", "y": 1, "yref": "container"},
        title_yanchor="top",
        title_pad_t=20,
        margin_t=140 + 20 * len(_left_out(comparison)),
        title_subtitle_text="<br>".join(
            [context, _agreement_with_credits(agreement), *_left_out(comparison)]
        ),
    )
    return figure


def level_and_credit(result: LensResult) -> pd.DataFrame:
    """Return one row for each target and block: the level after it, and its credit."""
    table = result.to_frame(tidy=True)
    table = table.loc[table["segment"] != "embed"].rename(columns={"value": "credit"})
    return table.assign(layer=table["segment"].str[1:].astype(int)).reset_index(drop=True)


def draw_level_and_credit(table: pd.DataFrame) -> go.Figure:
    """Draw every block of every target: its level to the right, its credit upwards."""
    figure = go.Figure(
        go.Scatter(
            x=table["level"],
            y=table["credit"],
            mode="markers",
            marker={
                "color": table["layer"],
                "colorscale": "Cividis",
                "size": 9,
                "line": {"width": 0.5, "color": "#ffffff"},
                "colorbar": {"title": {"text": "layer", "side": "top"}, "thickness": 14},
            },
            text=[
                f"{show_token(token)} {segment}"
                for token, segment in zip(table["token"], table["segment"], strict=True)
            ],
            hovertemplate="%{text}<br>level after it %{x:.4f}<br>credit %{y:+.4f}<extra></extra>",
        )
    )
    figure.add_vrect(x0=HIGH, x1=1.01, fillcolor="#4d4d4d", opacity=0.08, line_width=0)
    figure.update_xaxes(title="level: p(token) read out after the layer (logit lens)")
    figure.update_yaxes(title="credit: what the layer adds to it (IG-Lens)")
    high = table[table["level"] > HIGH]
    finding = "no layer has a level that high"
    if len(high):
        small = (high["credit"].abs() < SMALL).mean()
        finding = (
            f"of the {len(high)} of {len(table)} layers whose level is above {HIGH} (grey), "
            f"{small:.0%} have a credit below {SMALL}"
        )
    return finish(figure, "Is a high level a high credit?", finding, width=900, height=560)


def _left_out(comparison: LensComparison) -> list[str]:
    """Say which lenses do not apply to the model, and why."""
    return [
        f"left out: {name} ({show_label(reason)})" for name, reason in comparison.skipped.items()
    ]


def _agreement_with_credits(agreement: pd.DataFrame) -> str:
    named = []
    for pair in agreement.to_dict("records"):
        other = pair["lens"] if pair["other"] == "ig_lens" else pair["other"]
        if "ig_lens" in (pair["lens"], pair["other"]):
            named.append(f"{other} {pair['rank_correlation']:.2f}")
    return f"rank correlation of the layers' changes with ig_lens: {', '.join(named)}"
