"""Credits beside effects, layer by layer, and the page that reports a validation."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import plotly.io
from plotly.subplots import make_subplots

from iglens_tl.results.data import LensData, Provenance
from iglens_tl.results.segments import parse_segment
from iglens_tl.views.figures.text import show_label

METRICS = {
    "spearman": "rank correlation (Spearman) over the layers; 1 is equal order, 0 is chance",
    "sign_agreement": "share of layers in which both have the same sign",
    "top_3_overlap": "share of the 3 most credited layers among the 3 of largest effect",
    "routing_gap": "Σ|effect − credit| / Σ|effect|; 0 is equality, 1 is what credits of zero get",
}
"""The metrics of the short table for every intervention, and how to read them."""

CURVE_METRICS = {
    "share_of_oracle": "what the order by credit gains over chance, as a share of what the order "
    "by the effects of skipping single layers gains; 1 is as good, 0 is chance",
    "area_between": "mean value with only the first k layers − without the first k; 0 is chance",
    "comprehensiveness": "mean loss of the value without the first k layers; larger is better",
    "sufficiency": "mean loss of the value with only the first k layers; smaller is better",
}
"""The same for skip curves."""

_COLORS = ("#2166ac", "#b2182b", "#1b7837", "#762a83", "#e08214", "#01665e", "#4d4d4d")
_MOST_TICKS = 16
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1080px; margin: 24px auto;
       padding: 0 20px; }
h1 { font-size: 24px; margin-bottom: 4px; }
h2 { font-size: 18px; margin: 32px 0 8px; }
table { border-collapse: collapse; font-size: 14px; }
th, td { padding: 3px 14px 3px 0; text-align: left; vertical-align: top; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; }
tr.head th { border-bottom: 1px solid #999; }
tr.group th { padding-top: 14px; }
tr.null td { color: #767676; }
tr.null td:first-child { padding-left: 18px; }
td small { color: #767676; }
.scroll { overflow-x: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; font-size: 14px; }
dt { font-weight: 600; } dd { margin: 0; overflow-wrap: anywhere; }
.subtitle { color: #555; margin-top: 0; }
"""
_INTRODUCTION = """
<p>A lens credits every layer with a part of what the model says. An intervention takes the layer
out and measures what the answer loses: its effect. Below, the credits of each lens are compared
with the effects, target by target, and the agreement is averaged over the targets. Intervals are
95&nbsp;% bootstrap intervals over prompts.</p>
<p>Grey rows are what chance gives: <em>layers shuffled</em> permutes the credits of each target,
<em>random target</em> credits another token, drawn at random, and <em>random weights</em> compares
credits and effects in a model that has learned nothing. An agreement that is no better than these
says nothing.</p>
"""
_EARLY_EXIT = """
<p><em>early_exit</em> is no independent check of a lens that takes differences along the hidden
states, such as ig_lens in its default order: both are the same numbers by definition.</p>
"""


def layers_figure(credits: Mapping[str, LensData], effects: Mapping[str, LensData]) -> go.Figure:
    """Draw mean credits and mean effects by layer, a panel for each unit of the credits.

    Args:
        credits: By name, of the same targets.
        effects: By intervention, of the same targets and all in one unit.

    Returns:
        The figure; nothing is shown or written.
    """
    units = list(dict.fromkeys(data.unit for data in credits.values()))
    panels: list[tuple[str, str, dict[str, LensData]]] = [
        ("mean credit", unit, {name: d for name, d in credits.items() if d.unit == unit})
        for unit in units
    ]
    panels.append(("mean effect", next(iter(effects.values())).unit, dict(effects)))
    figure = make_subplots(
        rows=1,
        cols=len(panels),
        subplot_titles=[f"{what}, {show_label(unit)}" for what, unit, _ in panels],
        horizontal_spacing=0.08,
    )
    styles = iter(range(len(credits) + len(effects)))
    for column, (what, unit, of_panel) in enumerate(panels, start=1):
        for name, data in of_panel.items():
            labels, means = _mean_changes(data)
            color = _COLORS[next(styles) % len(_COLORS)]
            trace = go.Scatter(
                x=labels,
                y=means,
                name=show_label(name),
                legendgroup=what,
                mode="lines+markers",
                line={"color": color, "dash": "solid" if what == "mean credit" else "dash"},
                marker={"size": 6},
                hovertemplate=f"{show_label(name)}<br>%{{x}}: %{{y:+.4f}} {show_label(unit)}"
                "<extra></extra>",
            )
            figure.add_trace(trace, row=1, col=column)
        n_layers = max(len(_mean_changes(data)[0]) for data in of_panel.values())
        figure.update_xaxes(dtick=-(-n_layers // _MOST_TICKS), row=1, col=column)
    last = panels[-1][1]
    for column, (_, unit, _) in enumerate(panels[:-1], start=1):
        if unit == last:
            # Credits and effects in one unit can be compared by height.
            figure.update_yaxes(matches=_axis(len(panels)), row=1, col=column)
    figure.update_yaxes(zeroline=True, zerolinecolor="#a6a6a6")
    n_targets = len(next(iter(credits.values())).targets)
    figure.update_layout(
        title={
            "text": "what lenses credit each layer with, and what taking it out does",
            "subtitle": {"text": f"mean over {n_targets} target{'s' if n_targets > 1 else ''}"},
        },
        template="plotly_white",
        width=max(700, 340 * len(panels)),
        height=480,
        margin={"l": 70, "r": 30, "t": 110, "b": 50},
        legend={"orientation": "h", "y": -0.12, "yanchor": "top"},
        hoverlabel={"font": {"family": "monospace"}, "align": "left"},
    )
    return figure


def validation_page(
    table: pd.DataFrame,
    figures: Sequence[go.Figure],
    provenance: Provenance,
    *,
    nulls: tuple[str, ...],
) -> str:
    """Return a self-contained HTML page: what is compared, the table, figures, and how it was made.

    Args:
        table: What `validate` returns as `table`.
        figures: Figures, which stand below the table.
        provenance: Model, options, versions and date.
        nulls: Endings of the names of credits that stand for chance.
    """
    model = str(provenance.model.get("name", "unnamed model"))
    plots = [
        plotly.io.to_html(
            figure, include_plotlyjs=index == 0, include_mathjax=False, full_html=False
        )
        for index, figure in enumerate(figures)
    ]
    parts = [
        f"<h1>Do credits agree with interventions?</h1><p class='subtitle'>{_text(model)}, "
        f"{_text(provenance.created[:10])}</p>",
        _INTRODUCTION + _EARLY_EXIT * bool((table["effects"] == "early_exit").any()),
        "<h2>Agreement</h2>",
        _html_tables(table, nulls),
        "<h2>Figures</h2>",
        *(f"<div class='scroll'>{plot}</div>" for plot in plots),
        _list("Notes", provenance.notes),
        "<h2>How this was made</h2>",
        _definitions({**provenance.model, **provenance.options}),
        _definitions({**provenance.versions, "created": provenance.created}),
    ]
    return (
        f"<!doctype html>\n<html lang='en'>\n<head><meta charset='utf-8'>"
        f"<title>{_text(model)}: credits and interventions</title><style>{_STYLE}</style></head>\n"
        f"<body>\n{chr(10).join(parts)}\n</body>\n</html>\n"
    )


def metrics_of(table: pd.DataFrame, effects: str) -> dict[str, str]:
    """Return the metrics of the short table that were measured against some effects."""
    measured = set(table.loc[table["effects"] == effects, "metric"])
    known = {**METRICS, **CURVE_METRICS}
    return {name: meaning for name, meaning in known.items() if name in measured}


def metric_cell(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return a mean and its interval as texts, with words in place of what is undefined."""
    if pd.isna(row["mean"]):
        return "undefined", ""
    interval = "" if pd.isna(row["low"]) else f"[{_number(row['low'])}, {_number(row['high'])}]"
    return _number(row["mean"]), interval


def undefined_notes(table: pd.DataFrame, nulls: tuple[str, ...]) -> list[str]:
    """Return what is missing in the short table, or rough, each reason once."""
    wanted = table["metric"].isin([*METRICS, *CURVE_METRICS]) & (table["note"] != "")
    shown = table.loc[wanted, ["metric", "note", "credits"]]
    by_note: dict[tuple[str, str], list[str]] = {}
    for metric, note, credits in shown.to_numpy().tolist():
        ending = next((null for null in nulls if credits.endswith(null)), "")
        by_note.setdefault((metric, note), []).append(credits.removesuffix(ending))
    by_names: dict[tuple[str, str], list[str]] = {}
    for (metric, note), credits in by_note.items():
        by_names.setdefault((", ".join(dict.fromkeys(credits)), note), []).append(metric)
    return [
        f"{', '.join(metrics)} of {names}: {note}" for (names, note), metrics in by_names.items()
    ]


def _mean_changes(data: LensData) -> tuple[list[str], list[float]]:
    of_blocks = [
        i for i, label in enumerate(data.segments) if parse_segment(label).layer is not None
    ]
    means = data.changes[:, of_blocks].mean(axis=0)
    return [data.segments[i] for i in of_blocks], [float(mean) for mean in means]


def _axis(column: int) -> str:
    return "y" if column == 1 else f"y{column}"


def _html_tables(table: pd.DataFrame, nulls: tuple[str, ...]) -> str:
    """Return one block of rows for every intervention; then skip curves, with their own metrics."""
    blocks = []
    header: list[str] = []
    for effects in dict.fromkeys(table["effects"]):
        metrics = metrics_of(table, effects)
        rows = table[table["effects"] == effects]
        if list(metrics) != header:
            header = list(metrics)
            named = "".join(f"<th title='{_text(m)}'>{_text(n)}</th>" for n, m in metrics.items())
            meaning = "".join(f"<dt>{_text(n)}</dt><dd>{_text(m)}</dd>" for n, m in metrics.items())
            blocks.append(
                f"{'</table>' if blocks else ''}<dl>{meaning}</dl><table>"
                f"<tr class='head'><th>credits</th>{named}<th>targets</th></tr>"
            )
        blocks.append(
            f"<tr class='group'><th colspan='{len(header) + 2}'>{_text(effects)}</th></tr>"
        )
        for credits in dict.fromkeys(rows["credits"]):
            of_credits = rows.loc[rows["credits"] == credits]
            blocks.append(_html_row(credits, of_credits, header, nulls))
    notes = undefined_notes(table, nulls)
    return f"<div class='scroll'>{''.join(blocks)}</table></div>" + _list("", notes)


def _html_row(
    credits: str, rows: pd.DataFrame, metrics: Sequence[str], nulls: tuple[str, ...]
) -> str:
    ending = next((null for null in nulls if credits.endswith(null)), None)
    by_metric = {row["metric"]: row for row in rows.to_dict("records")}
    cells = []
    for metric in metrics:
        row = by_metric[metric]
        mean, interval = metric_cell(row)
        cells.append(
            f"<td class='number' title='{_text(row['note'])}'>{mean} <small>{interval}</small></td>"
        )
    name = credits if ending is None else ending.removeprefix(", ")
    items = max(row["items"] for row in by_metric.values())
    kind = " class='null'" if ending else ""
    return f"<tr{kind}><td>{_text(name)}</td>{''.join(cells)}<td class='number'>{items}</td></tr>"


def _list(title: str, entries: Sequence[str]) -> str:
    if not entries:
        return ""
    heading = f"<h2>{_text(title)}</h2>" if title else ""
    return f"{heading}<ul>{''.join(f'<li>{_text(entry)}</li>' for entry in entries)}</ul>"


def _definitions(entries: Mapping[str, Any]) -> str:
    rows = [f"<dt>{_text(name)}</dt><dd>{_text(entry)}</dd>" for name, entry in entries.items()]
    return f"<dl>{''.join(rows)}</dl>"


def _number(number: float) -> str:
    text = f"{number:.2f}" if abs(number) < 100 else f"{number:.3g}"
    return "0.00" if text == "-0.00" else text


def _text(entry: object) -> str:
    return html.escape(str(entry))
