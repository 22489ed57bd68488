"""Where the public reference code's numbers differ from the model's own probability.

The code published with the IG-Lens paper (arXiv 2606.29693, anhnda/IGLens) reads the last hidden
state of Hugging Face's models, which their final norm has passed already, and applies the norm
again. Its last level is therefore not the probability that the model gives.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.figures.setting import Drawn, Setting
from experiments.figures.style import COLORS, finish
from iglens_tl import embedded_reference_texts, ig_lens, reference_ig_lens
from iglens_tl.views.text import show_blanks, show_token

N_TEXTS = 24
LARGE = 0.01


def reference(setting: Setting) -> Drawn:
    """Read every next token both ways and draw the differences."""
    table = measure(setting)
    return Drawn({"reference": table}, {"reference": draw(table)})


def measure(setting: Setting) -> pd.DataFrame:
    """Return one row for each next token: the model's log-probability and the reference's.

    The texts are the prompts with their answers, and without prompts of the user's also reference
    texts of the package.
    """
    texts = [list(request.ids) for request in setting.prompts.requests(setting.adapter)]
    if setting.lines is None:
        texts += embedded_reference_texts()[:N_TEXTS]
    options = {"value": "logprob", "top_k": 0}
    own = ig_lens(setting.adapter, texts, **options)
    published = reference_ig_lens(setting.adapter, texts, value="logprob")
    table = own.to_frame()["final"].reset_index().rename(columns={"final": "logprob"})
    table["p"] = np.exp(own.final)
    table["reference_logprob"] = published.final
    table["reference_p"] = np.exp(published.final)
    return table.assign(difference=table["reference_p"] - table["p"])


def draw(table: pd.DataFrame) -> go.Figure:
    """Draw the two probabilities against each other, and their ratio."""
    figure = make_subplots(
        cols=2,
        rows=1,
        horizontal_spacing=0.1,
        subplot_titles=["probability", "how many nats the reference is off"],
    )
    off = table["reference_logprob"] - table["logprob"]
    large = table["difference"].abs() > LARGE
    names = {True: f"differs by more than {LARGE}", False: "differs by less"}
    for is_large, color in ((False, COLORS[0]), (True, COLORS[1])):
        rows = table[large == is_large]
        hover = [f"{show_token(token)}" for token in rows["token"]]
        for column, y in enumerate((rows["reference_p"], off[rows.index]), start=1):
            figure.add_scatter(
                x=rows["p"],
                y=y,
                mode="markers",
                marker={"color": color, "size": 7, "opacity": 0.65},
                name=names[is_large],
                legendgroup=str(is_large),
                showlegend=column == 1,
                text=hover,
                hovertemplate="%{text}<br>model %{x:.4g}<br>reference %{y:.4g}<extra></extra>",
                row=1,
                col=column,
            )
    for column, end in ((1, 1), (2, 0)):
        line = {"color": "#4d4d4d", "width": 1, "dash": "dot"}
        figure.add_scatter(
            x=[table["p"].min() if column == 2 else 0, 1],
            y=[0, end],
            mode="lines",
            line=line,
            showlegend=False,
            hoverinfo="skip",
            row=1,
            col=column,
        )
    figure.update_xaxes(title="p(next token) by the model", row=1, col=1)
    figure.update_xaxes(
        title="p(next token) by the model",
        type="log",
        dtick=2,
        tickangle=0,
        exponentformat="power",
        row=1,
        col=2,
    )
    figure.update_yaxes(title="p by the reference code", row=1, col=1)
    figure.update_yaxes(title="log p(reference) − log p(model)", row=1, col=2)
    title = "What does a final norm applied twice do to the reference's numbers?"
    finish(figure, title, finding(table), width=1100, height=540)
    return figure.update_layout(legend={"orientation": "h", "y": -0.18})


def finding(table: pd.DataFrame) -> str:
    """Say how many probabilities differ, and by how much."""
    worst = table.loc[table["difference"].abs().idxmax()]
    return (
        f"{(table['difference'].abs() > LARGE).mean():.0%} of {len(table)} next tokens differ by "
        f"more than {LARGE}; largest: {show_blanks(worst['token'])} with {worst['p']:.3f} by the "
        f"model, {worst['reference_p']:.3f} by the reference"
    )
