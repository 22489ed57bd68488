"""Probability credit of every head and the tokens it read, beside direct logit attribution.

Direct logit attribution (Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits")
holds the final norm at the last state and measures logits. The credit of a probability is taken
where the layer stands: softmax and norm are those of the states that its chord passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from experiments.figures.setting import Drawn, Setting
from experiments.figures.style import COLORS, counted, finish
from iglens_tl import LensResult, components
from iglens_tl.lenses.assembly import assemble
from iglens_tl.lenses.base import Lens
from iglens_tl.lenses.baselines import resolve_baseline
from iglens_tl.lenses.decomposition.splits import Split
from iglens_tl.models import ModelAdapter
from iglens_tl.readout import Reading, inverse_norms, raw_logits, token_directions
from iglens_tl.results.segments import parse_segment
from iglens_tl.trace import Needs, Trace, begin_trace
from iglens_tl.views.figures.style import signed_scale
from iglens_tl.views.text import shorten, show_blanks

N_HEADS = 12
SHARE = 0.01
"""Cells below this share of the largest one are too small for their sign to be told."""


def heads(setting: Setting) -> Drawn:
    """Measure both on all prompts; draw the first one, and where the signs differ."""
    group = setting.prompts
    credits = components(setting.adapter, group.prompts, by="head_source", **group.choice)
    shares = logit_shares(setting.adapter, group.prompts, **group.choice)
    table = tidy(credits, shares)
    return Drawn(
        {"heads": table}, {"heads": draw_maps(table, credits), "heads_signs": draw_signs(table)}
    )


def logit_shares(adapter: ModelAdapter, prompt: Any, **choice: Any) -> LensResult:
    """Return what every head wrote towards the targets' logits, by the tokens that it read.

    The shares of a head's tokens add up to the head's own in `direct_logit_attribution`.
    """
    nowhere = resolve_baseline("zero", d_model=adapter.readout.d_model)
    split = Split(adapter, "head_source", "hidden_states", nowhere)
    return _SourceLogits(split=split)(begin_trace(adapter, prompt, **choice))


@dataclass(frozen=True, kw_only=True)
class _SourceLogits(Lens):
    """Direct logit attribution to what the heads read."""

    split: Split

    name: ClassVar[str] = "direct_logit_attribution"
    label: ClassVar[str] = "direct logit attribution"
    measures: ClassVar[str] = "What every head wrote towards the logit, by the tokens it read."
    sums_to: ClassVar[str] = "the head's own share of the logit"
    additive: ClassVar[bool] = False
    cost: ClassVar[str] = "1 forward pass"

    def needs(self, adapter: ModelAdapter) -> Needs:
        del adapter
        return self.split.needs()

    def measure(self, trace: Trace, readings: Mapping[str, Reading]) -> LensResult:
        del readings
        readout, rows = self.split.adapter.readout, trace.target_rows
        last = trace.states[self.split.states[-1]]
        directions = token_directions(readout, trace.token_ids)
        directions = (directions * inverse_norms(readout, last)[rows, None]).to(readout.dtype)
        targets = torch.arange(len(rows))
        parts = [
            part
            for group in self.split.groups(trace)
            for part in group.parts
            if parse_segment(part.labels[0]).source is not None
        ]
        values = torch.cat([part.shares(directions, targets) for part in parts], dim=1).cpu()
        final = raw_logits(readout, last[rows], trace.token_ids).cpu()
        return assemble(
            trace,
            lens=self,
            unit="logit",
            kind="effect",
            segments=[label for part in parts for label in part.labels],
            values=values,
            levels=final[:, None] - values,
            baseline=torch.zeros_like(final),
            final=final,
            options={"by": "head_source", "value": "logit"},
            notes=("shares of heads only; those of the embedding, MLPs and biases are left out",),
        )


def tidy(credits: LensResult, shares: LensResult) -> pd.DataFrame:
    """Return one row for each target, head and token that it can read."""
    keys = ["prompt", "position", "token_id", "token", "segment"]
    frames = [r.to_frame(tidy=True)[[*keys, "value"]] for r in (credits, shares)]
    table = frames[0].merge(frames[1], on=keys, suffixes=("_credit", "_logit"))
    table = table.rename(columns={"value_credit": "credit", "value_logit": "logit"})
    parsed = [parse_segment(label) for label in table["segment"]]
    table["layer"] = [segment.layer for segment in parsed]
    table["head"] = [segment.head for segment in parsed]
    table["source"] = [segment.source for segment in parsed]
    table = table[table["source"].notna() & (table["source"] <= table["position"])]
    return table.astype({"layer": int, "head": int, "source": int}).reset_index(drop=True)


def disagree(table: pd.DataFrame) -> pd.Series:
    """Return for each row whether the signs differ, both numbers being large enough to tell."""
    by_target = table.groupby(["prompt", "position", "token_id"])
    large = []
    for what in ("credit", "logit"):
        largest: Any = by_target[what].transform(lambda values: values.abs().max())
        large.append(table[what].abs() > SHARE * largest)
    return large[0] & large[1] & (table["credit"] * table["logit"] < 0)


def draw_maps(table: pd.DataFrame, credits: LensResult) -> go.Figure:
    """Draw the largest heads of the first target, both ways, and mark where the signs differ."""
    first = credits.targets[0]
    own = table[(table["prompt"] == 0) & (table["position"] == first.position)].copy()
    own = own[own["token_id"] == first.token_id]
    own["name"] = [
        f"L{layer}.H{head}" for layer, head in zip(own["layer"], own["head"], strict=True)
    ]
    own["differs"] = disagree(own)
    of_credit, of_logit = (
        own.groupby("name")[w].apply(lambda v: v.abs().sum()) / own[w].abs().sum()
        for w in ("credit", "logit")
    )
    sizes = of_credit + of_logit
    chosen = set(sizes.nlargest(N_HEADS).index)
    own = own[own["name"].isin(chosen)]
    names = list(dict.fromkeys(own["name"]))
    tokens = credits.texts[0].tokens[: first.position + 1]
    what = {"credit": "credit of p(answer)", "logit": "direct logit attribution (logits)"}
    figure = make_subplots(
        cols=2,
        rows=1,
        shared_yaxes=True,
        horizontal_spacing=0.14,
        subplot_titles=list(what.values()),
    )
    for column, kind in enumerate(what, start=1):
        values = own.pivot(index="name", columns="source", values=kind).loc[names]
        axis = f"coloraxis{column if column > 1 else ''}"
        figure.add_heatmap(
            z=values,
            x=list(range(len(tokens))),
            y=names,
            coloraxis=axis,
            xgap=1,
            ygap=1,
            hovertemplate="%{y} reading position %{x}: %{z:+.4f}<extra></extra>",
            row=1,
            col=column,
        )
        bar = {"thickness": 12, "x": 0.44 if column == 1 else 1.01, "exponentformat": "e"}
        figure.layout[axis] = {**signed_scale([values.to_numpy()]), "colorbar": bar}
        differing = own[own["differs"]]
        figure.add_scatter(
            x=differing["source"],
            y=differing["name"],
            mode="markers",
            name="opposite signs",
            marker={"symbol": "x-thin", "size": 9, "line": {"color": "#000000", "width": 1.8}},
            showlegend=column == 1,
            hoverinfo="skip",
            row=1,
            col=column,
        )
    figure.update_xaxes(
        tickmode="array",
        tickvals=list(range(len(tokens))),
        ticktext=[shorten(token, 12) for token in tokens],
        tickangle=-45,
        title="token that was read",
        showgrid=False,
    )
    figure.update_yaxes(showgrid=False)
    asked = "".join(tokens[-8:])
    finding = (
        f"{show_blanks(asked)} → {show_blanks(first.token)}: the {len(names)} largest heads; "
        f"{int(own['differs'].sum())} of {len(own)} cells have opposite signs "
        f"(×; both above {SHARE:.0%} of the largest)"
    )
    title = "Which heads and tokens does the answer come from: probability or logit?"
    finish(figure, title, finding, width=1100, height=300 + 26 * len(names))
    return figure.update_layout(
        legend={"orientation": "h", "y": -0.3, "yref": "paper"}, margin={"b": 120}
    )


def draw_signs(table: pd.DataFrame) -> go.Figure:
    """Draw credit against logit share over all prompts, and by layer what differs in sign."""
    differs = disagree(table)
    shown = table[(table["credit"].abs() > 1e-4) | (table["logit"].abs() > 1e-2)]
    figure = make_subplots(
        cols=2,
        rows=1,
        horizontal_spacing=0.12,
        subplot_titles=["every head and token it read", "share of Σ|credit| with opposite sign"],
    )
    for is_different, color, name in (
        (False, COLORS[0], "same sign, or too small to tell"),
        (True, COLORS[1], "opposite signs"),
    ):
        rows = shown[differs[shown.index] == is_different]
        figure.add_scatter(
            x=rows["logit"],
            y=rows["credit"],
            mode="markers",
            name=name,
            marker={"color": color, "size": 5, "opacity": 0.6},
            text=rows["segment"].str.replace("<", "&lt;"),
            hovertemplate="%{text}<br>logit %{x:+.3f}<br>credit %{y:+.4f}<extra></extra>",
            row=1,
            col=1,
        )
    mass = table["credit"].abs()
    by_layer = (
        mass[differs]
        .groupby(table["layer"])
        .sum()
        .reindex(sorted(table["layer"].unique()), fill_value=0)
        / mass.groupby(table["layer"]).sum()
    )
    figure.add_bar(
        x=[f"L{layer}" for layer in by_layer.index],
        y=by_layer,
        marker={"color": COLORS[1]},
        showlegend=False,
        hovertemplate="%{x}: %{y:.1%}<extra></extra>",
        row=1,
        col=2,
    )
    figure.update_xaxes(title="direct logit attribution (logits)", row=1, col=1)
    figure.update_yaxes(title="credit of p(answer)", row=1, col=1)
    figure.update_yaxes(tickformat=".0%", rangemode="tozero", row=1, col=2)
    n_targets = table.groupby(["prompt", "position", "token_id"]).ngroups
    finding = (
        f"{mass[differs].sum() / mass.sum():.0%} of the heads' Σ|credit| over "
        f"{counted(n_targets, 'target')} is where logit attribution has the opposite sign\n"
        f"(both above {SHARE:.0%} of the target's largest: of smaller ones no sign is told)"
    )
    title = "Where do probability and logit disagree about a head's sign?"
    finish(figure, title, finding, width=1100, height=540)
    return figure.update_layout(legend={"orientation": "h", "y": -0.18})
