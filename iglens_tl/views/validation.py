"""Report a validation as a page: what is compared, tables, figures, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from iglens_tl.results.data import Provenance
from iglens_tl.views.html import figures_page

if TYPE_CHECKING:
    from iglens_tl.views.figures import Figure

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


def validation_page(
    table: pd.DataFrame,
    figures: Sequence[Figure],
    provenance: Provenance,
    *,
    nulls: tuple[str, ...],
) -> bytes:
    """Return a self-contained HTML page: what is compared, the table, figures, and how it was made.

    Args:
        table: What `validate` returns as `table`.
        figures: Figures, which stand below the table.
        provenance: Model, options, versions and date.
        nulls: Endings of the names of credits that stand for chance.
    """
    model = provenance.model_name
    shown = provenance
    return figures_page(
        "validation.html.jinja",
        figures,
        title=f"{model}: credits and interventions",
        model=model,
        created=provenance.created,
        has_early_exit=bool((table["effects"] == "early_exit").any()),
        blocks=table_blocks(table, nulls),
        undefined=undefined_notes(table, nulls),
        said=shown.notes,
        provenance=shown,
    )


def table_blocks(table: pd.DataFrame, nulls: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the tables of a validation: one for interventions, one for skip curves.

    Args:
        table: What `validate` returns as `table`.
        nulls: Endings of the names of credits that stand for chance.

    Returns:
        For each table its `metrics` with their meanings, and its `rows` by effects: the `name` of
        the credits, whether it `is_null`, a cell for each metric, and how many `targets`.
    """
    blocks: list[dict[str, Any]] = []
    for effects in dict.fromkeys(table["effects"]):
        metrics = metrics_of(table, effects)
        if not blocks or blocks[-1]["metrics"] != metrics:
            blocks.append({"metrics": metrics, "rows": {}})
        of_effects = table[table["effects"] == effects]
        blocks[-1]["rows"][effects] = [
            _row(credits, of_effects.loc[of_effects["credits"] == credits], list(metrics), nulls)
            for credits in dict.fromkeys(of_effects["credits"])
        ]
    return blocks


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


def _row(
    credits: str, rows: pd.DataFrame, metrics: Sequence[str], nulls: tuple[str, ...]
) -> dict[str, Any]:
    ending = next((null for null in nulls if credits.endswith(null)), None)
    by_metric = {row["metric"]: row for row in rows.to_dict("records")}
    shown = [(by_metric[metric], *metric_cell(by_metric[metric])) for metric in metrics]
    return {
        "name": credits if ending is None else ending.removeprefix(", "),
        "is_null": ending is not None,
        "cells": [
            {"mean": mean, "interval": interval, "note": row["note"]}
            for row, mean, interval in shown
        ],
        "targets": max(row["items"] for row in by_metric.values()),
    }


def _number(number: float) -> str:
    text = f"{number:.2f}" if abs(number) < 100 else f"{number:.3g}"
    return "0.00" if text == "-0.00" else text
