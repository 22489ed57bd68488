"""In which layers answers are produced, by kind of prompt, and whether hard ones take longer.

The onset is the paper's (arXiv 2606.29693): where half of a token's |credit| has been given. That
harder tasks do not use more of a model's depth is a finding of Csordás, Manning and Potts (2025,
arXiv 2505.13898) on other measures.
"""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.figures.answer_map import RULES
from experiments.figures.differences import paired_difference, unpaired_difference
from experiments.figures.setting import FIRST_HOP_GIVEN, ONE_HOP, TWO_HOPS, Drawn, Setting
from experiments.figures.style import COLORS, counted, finish
from iglens_tl import ig_lens
from iglens_tl.results.onset import onset_index

_LEVELS = (ONE_HOP, FIRST_HOP_GIVEN, TWO_HOPS)


def onsets(setting: Setting) -> Drawn:
    """Find the onsets of all items and draw how they are distributed."""
    table = measure(setting)
    figure = draw(table, seed=setting.seed)
    return Drawn({"onsets": table}, {"onsets": figure}, setting.notes)


def measure(setting: Setting) -> pd.DataFrame:
    """Return one row for each target and rule: its group, final value and onset.

    `layer` is the onset's block, −1 for the embedding.
    """
    frames = []
    for group in setting.groups:
        result = ig_lens(setting.adapter, group.prompts, **group.choice, top_k=0)
        targets = result.to_frame()["final"].reset_index()
        for rule in RULES:
            index = onset_index(result, rule=rule)
            found = {"onset": [result.segments[i] for i in index], "layer": index - 1}
            frames.append(targets.assign(group=group.name, rule=rule, **found))
    return pd.concat(frames, ignore_index=True).assign(n_layers=setting.adapter.n_layers)


def draw(table: pd.DataFrame, *, seed: int = 0) -> go.Figure:
    """Draw the shares of onsets in each layer, and easy against hard items where there are both."""
    groups = list(dict.fromkeys(table["group"]))
    levels = [name for name in _LEVELS if name in groups]
    n_rows = 2 if len(levels) > 1 else 1
    figure = make_subplots(
        rows=n_rows,
        cols=2,
        row_heights=[0.6, 0.4][:n_rows],
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=0.1,
        subplot_titles=[f"{rule}: {meaning}" for rule, meaning in RULES.items()],
    )
    labels = [f"{name} (n = {count})" for name, count in _counts(table, groups).items()]
    layers = list(range(-1, int(table["n_layers"].iloc[0])))
    names = ["embed", *(f"L{layer}" for layer in layers[1:])]
    for column, rule in enumerate(RULES, start=1):
        of_rule = table[table["rule"] == rule]
        shares = pd.crosstab(of_rule["group"], of_rule["layer"], normalize="index")
        shares = shares.reindex(index=groups, columns=layers, fill_value=0)
        figure.add_heatmap(
            z=shares,
            x=names,
            y=labels,
            text=[[f"{share:.2f}" if share else "" for share in row] for row in shares.to_numpy()],
            texttemplate="%{text}" if len(layers) <= 16 else None,
            hovertemplate="%{y}, %{x}: %{z:.2f} of the targets<extra></extra>",
            coloraxis="coloraxis",
            xgap=1,
            ygap=1,
            row=1,
            col=column,
        )
        for color, name in zip(COLORS, levels if n_rows == 2 else [], strict=False):
            of_level = of_rule.loc[of_rule["group"] == name, "layer"].to_numpy()
            figure.add_scatter(
                x=names,
                y=[(of_level <= layer).mean() for layer in layers],
                name=name,
                legendgroup=name,
                showlegend=column == 1,
                line={"color": color, "shape": "hv", "width": 2.5},
                row=2,
                col=column,
            )
    figure.update_yaxes(autorange="reversed", showgrid=False, row=1)
    figure.update_xaxes(showgrid=False, row=1)
    if n_rows == 2:
        figure.update_yaxes(title="share of targets<br>produced by then", row=2, col=1)
    figure.update_layout(
        coloraxis={
            "colorscale": "Blues",
            "cmin": 0,
            "cmax": 1,
            "colorbar": {
                "title": {"text": "share", "side": "top"},
                "thickness": 12,
                "lenmode": "pixels",
                "len": 160,
                "y": 1,
                "yanchor": "top",
            },
        },
        legend={"orientation": "h", "y": -0.08},
    )
    height = 260 + 30 * len(groups) + 280 * (n_rows - 1)
    title = "In which layer is half of an answer's probability made?"
    finish(figure, title, finding(table, seed=seed), width=1150, height=height)
    return figure.update_layout(margin={"l": 150})


def finding(table: pd.DataFrame, *, seed: int = 0) -> str:
    """Say by how many layers hard items come later, or where the onsets lie."""
    of_rule = table[table["rule"] == "mass"]
    by_group = {name: rows["layer"].to_numpy() for name, rows in of_rule.groupby("group")}
    hard = by_group.get(TWO_HOPS, [])
    said = []
    if len(hard) > 1:
        given = paired_difference(hard, by_group[FIRST_HOP_GIVEN], seed=seed)
        said.append(f"the same {len(hard)} questions with the first hop given {given}")
    if min(len(hard), len(by_group.get(ONE_HOP, []))) > 1:
        easy = by_group[ONE_HOP]
        other = unpaired_difference(hard, easy, seed=seed)
        said.append(f"{len(easy)} other questions of one hop {other}")
    if said:
        return (
            f"mean onset by mass of {TWO_HOPS}, in layers with 95 % intervals, minus that of\n"
            + "; ".join(said)
        )
    mean = of_rule["layer"].mean()
    return f"mean onset by mass: layer {mean:.1f} over {counted(len(of_rule), 'target')}"


def _counts(table: pd.DataFrame, groups: list[str]) -> dict[str, int]:
    found = table.loc[table["rule"] == "mass", "group"].value_counts().to_dict()
    return {name: found[name] for name in groups}
