"""How far credits miss what they should sum to, against the number of steps.

The IG-Lens paper (arXiv 2606.29693) states completeness up to floating point. It holds for the
change of the value itself ("delta"); rules that add up slopes have to be fine enough.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.figures.setting import Drawn, Setting
from experiments.figures.style import COLORS, counted, finish
from iglens_tl import CompletenessWarning, ig_lens

STEPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
BASELINES = ("mean", "zero")
DELTA, RIEMANN = "delta", "riemann"
GRADIENT = "gradient"
ESTIMATORS: dict[str, dict[str, Any]] = {
    RIEMANN: {"estimator": "riemann"},
    GRADIENT: {"estimator": "gradient"},
    DELTA: {"estimator": "delta"},
}
"""The options of each estimator; the steps of "gradient" are nodes of a piece of a segment, which
it halves until its tolerance (1e-5) is met."""

SMALLEST = 1e-17
"""Smaller errors, among them zero, are drawn here: the axis is logarithmic."""


def completeness(setting: Setting) -> Drawn:
    """Measure the errors and draw them."""
    table = measure(setting)
    return Drawn({"completeness": table}, {"completeness": draw(table)})


def measure(setting: Setting, steps: Sequence[int] = STEPS) -> pd.DataFrame:
    """Return the completeness error of every target, estimator, number of steps and baseline."""
    group = setting.prompts
    frames = []
    for baseline in BASELINES:
        for name, options in ESTIMATORS.items():
            for n_steps in [None] if name == DELTA else steps:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", CompletenessWarning)
                    result = ig_lens(
                        setting.adapter,
                        group.prompts,
                        **group.choice,
                        baseline=baseline,
                        n_steps=n_steps,
                        top_k=0,
                        **options,
                    )
                about = {"baseline": baseline, "estimator": name, "steps": n_steps}
                # The table's own column may hold a larger error of a single credit.
                index = result.to_frame().index
                errors = pd.Series(abs(result.completeness_error), index=index, name="error")
                frames.append(errors.reset_index().assign(**about))
    table = pd.concat(frames, ignore_index=True)
    return table.astype({"steps": "Int64"})


def draw(table: pd.DataFrame) -> go.Figure:
    """Draw the largest and the median error over the targets, a panel for each baseline."""
    titles = [f"{baseline} baseline" for baseline in BASELINES]
    figure = make_subplots(
        rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=titles
    )
    steps = sorted(int(step) for step in table["steps"].dropna().unique())
    summary = table.groupby(["baseline", "estimator", "steps"], dropna=False)["error"].agg(
        ["max", "median"]
    )
    for column, baseline in enumerate(BASELINES, start=1):
        for color, name in zip(COLORS, ESTIMATORS, strict=False):
            found = summary.loc[baseline, name]
            for what, dash in (("max", "solid"), ("median", "dot")):
                errors = np.maximum(found[what].to_numpy(), SMALLEST)
                figure.add_scatter(
                    x=steps,
                    y=np.broadcast_to(errors, len(steps)),
                    name=name,
                    legendgroup=name,
                    showlegend=column == 1 and what == "max",
                    mode="lines+markers" if name != DELTA else "lines",
                    line={"color": color, "dash": dash, "width": 2.5 if what == "max" else 1.5},
                    hovertemplate=f"{name}, {what} over targets<br>%{{x}} steps: %{{y:.2g}}"
                    "<extra></extra>",
                    row=1,
                    col=column,
                )
    figure.update_xaxes(
        type="log",
        tickvals=steps,
        ticktext=[str(step) for step in steps],
        title="steps of a segment (riemann), nodes of a piece (gradient)",
    )
    figure.update_yaxes(type="log", dtick=2, exponentformat="power")
    figure.update_yaxes(title="|Σ credits − (final − baseline)|", col=1)
    finish(figure, "How many steps does completeness take?", finding(table), width=1100, height=540)
    figure.update_layout(legend={"orientation": "h", "y": -0.2})
    return figure


def finding(table: pd.DataFrame) -> str:
    """Say how large the errors are, in a sentence."""
    most = int(table["steps"].max())
    worst: Any = table.groupby(["estimator", "baseline"])["error"].max()
    at_most: Any = table[table["steps"] == most].groupby(["estimator", "baseline"])["error"].max()
    n_targets = table.groupby(["prompt", "position", "token_id"]).ngroups
    named = f"{worst[DELTA].max():.0e}" if worst[DELTA].max() else "0"
    rules = ", ".join(f"{at_most[RIEMANN, base]:.0e} ({base})" for base in BASELINES)
    return (
        f"largest error over {counted(n_targets, 'target')} "
        f"(dotted: median) — delta {named}; riemann with {most} steps {rules}; "
        f"gradient {at_most[GRADIENT].max():.0e}"
    )
