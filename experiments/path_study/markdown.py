"""The tables of the study as a Markdown page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from experiments.common.items import SMALLEST_P, WRONG
from experiments.common.markdown import markdown_table
from experiments.path_study.conditions import (
    BASELINES,
    BREAKPOINTS,
    DEFAULT,
    FORWARD,
    LOGPROB,
    ORDERS,
    PROB,
    STEPS,
    VALUES,
)
from experiments.path_study.measuring import EFFECTS
from experiments.path_study.predictions import Prediction
from experiments.path_study.study import RIGHT, Study

_VALUE_NAMES = {"prob": "p", "logprob": "log p", "logit_difference": "logit difference"}
_HEADER = """# Path study of {model}

Written by `python -m experiments.path_study.show`; explained in [README.md](README.md). Numbers are
means over items with 95 % bootstrap intervals over prompts; unless it says otherwise, on the {n}
items with right answers, for credits of p from the mean baseline with all layers as break points.
"""


def tables_page(
    study: Study, responses: pd.DataFrame, predictions: Sequence[Prediction], model: str
) -> str:
    """Return all tables as one page."""
    n_right = int(study.groups()[RIGHT].sum())
    parts = [
        _HEADER.format(model=model, n=n_right),
        "## Predictions\n",
        markdown_table(
            ["", "prediction", "criterion", "found"],
            [[f"**{p.verdict}**", p.statement, p.criterion, p.found] for p in predictions],
        ),
        "## Items\n",
        f'Right answers have p > {SMALLEST_P}; those of "{WRONG}" are wrong ones.\n',
        _items(study),
        "## Rank stability\n",
        *(_stability(responses, value) for value in VALUES),
        "### Baselines\n",
        "Kendall's τ over the layers with the same order from the mean baseline.\n",
        _baselines(responses),
        "## Where in depth credit lies\n",
        "Centre of |credit| over the layers (0 is the first).\n",
        _depth(responses, "centre of mass", RIGHT),
        "The same for wrong answers.\n",
        _depth(responses, "centre of mass", WRONG),
        "By how many layers the layer by which half of |credit| has been given lies above (+) that "
        "of the forward order of the same value.\n",
        _depth(responses, "onset shift", RIGHT),
        "Onset shift by baseline, with p.\n",
        _shifts_by_baseline(responses),
        "## Fewer break points\n",
        "Gap: Σ|coarse credit − sum of the fine ones| / Σ|coarse credit|.\n",
        _coarsening(responses),
        "## Estimators\n",
        "Σ|credit − delta| over the segments, and Kendall's τ with delta over the layers.\n",
        _estimators(responses),
        "## Agreement with effects of interventions\n",
        "Spearman's correlation over the layers with the effects on the same value.\n",
        *(_agreement(responses, value, RIGHT) for value in VALUES),
        "### Wrong answers\n",
        _agreement(responses, PROB, WRONG),
        "### The forward order, by family and baseline\n",
        _agreement_by_family(responses),
        _agreement_by_baseline(responses),
        "## Cost\n",
        "Per item, alone, in batches; texts of equal length share forward passes.\n",
        _costs(study),
    ]
    return "\n".join(part for part in parts if part)


def _items(study: Study) -> str:
    rows = []
    for family, own in study.items.groupby("family", sort=False):
        first = own.iloc[0]
        example = f"{first['prompt']} →{first['answer']} (not{first['other']})"
        rows.append([str(family), str(len(own)), f"{own['p'].mean():.3f}", f"`{example}`"])
    return markdown_table(["family", "items", "mean p", "first item"], rows)


def _stability(responses: pd.DataFrame, value: str) -> str:
    rows = _chosen(responses, "kendall of orders", value=value)
    orders = [o for o in ORDERS if o in {*rows["order"], *rows["against"]}]
    cells = {(row["against"], row["order"]): _cell(row) for row in _records(rows)}
    lines = [
        [first, *(cells.get((first, second), "") for second in orders[1:])] for first in orders[:-1]
    ]
    title = f"Kendall's τ over the layers between orders, {_VALUE_NAMES[value]}.\n"
    return title + "\n" + markdown_table(["", *orders[1:]], lines)


def _baselines(responses: pd.DataFrame) -> str:
    rows = _chosen(responses, "kendall of baselines")
    others = [b for b in BASELINES if b != DEFAULT.baseline]
    lines = [
        [order, _VALUE_NAMES[value], *_cells(own, "baseline", others)]
        for (order, value), own in _by_order_and_value(rows)
    ]
    return markdown_table(["order", "value", *others], lines)


def _depth(responses: pd.DataFrame, response: str, group: str) -> str:
    rows = _chosen(responses, response, group=group, breakpoints="all layers")
    rows = rows.loc[rows["baseline"] == DEFAULT.baseline]
    lines = [
        [str(order), *_cells(own, "value", VALUES)]
        for order, own in rows.groupby("order", sort=False)
    ]
    return markdown_table(["order", *_VALUE_NAMES.values()], lines)


def _shifts_by_baseline(responses: pd.DataFrame) -> str:
    rows = _chosen(responses, "onset shift", value=PROB, breakpoints="all layers")
    lines = [
        [str(order), *_cells(own, "baseline", BASELINES)]
        for order, own in rows.groupby("order", sort=False)
    ]
    return markdown_table(["order", *BASELINES], lines)


def _coarsening(responses: pd.DataFrame) -> str:
    gaps, shifts = (_chosen(responses, name) for name in ("coarsening gap", "onset shift"))
    coarse = [name for name, every in BREAKPOINTS.items() if every > 1]
    lines = [
        [
            str(order),
            *_cells(own, "breakpoints", coarse),
            *_cells(shifts.loc[shifts["order"] == order], "breakpoints", coarse),
        ]
        for order, own in gaps.groupby("order", sort=False)
    ]
    names = [f"{what}, {name}" for what in ("gap", "onset shift") for name in coarse]
    return markdown_table(["order", *names], lines)


def _estimators(responses: pd.DataFrame) -> str:
    lines = []
    errors, ranks = (
        _chosen(responses, name) for name in ("sum of errors", "kendall of estimators")
    )
    for (order, value), own in _by_order_and_value(errors):
        same = ranks.loc[(ranks["order"] == order) & (ranks["value"] == value)]
        for title, rows in (("Σ error", own), ("τ", same)):
            cells = [
                *_cells(rows.loc[rows["estimator"] == "riemann"], "n_steps", STEPS, digits=3),
                *_cells(rows, "estimator", ["gradient"], digits=3),
            ]
            lines.append([order, _VALUE_NAMES[value], title, *cells])
    names = [f"riemann, m = {n_steps}" for n_steps in STEPS]
    return markdown_table(["order", "value", "", *names, "gradient"], lines)


def _agreement(responses: pd.DataFrame, value: str, group: str) -> str:
    rows = _chosen(responses, "agreement", value=value, group=group)
    rows = rows.loc[rows["baseline"] == DEFAULT.baseline]
    lines = [
        [str(order), *_cells(own, "against", list(EFFECTS))]
        for order, own in rows.groupby("order", sort=False)
    ]
    return f"{_VALUE_NAMES[value]}:\n\n" + markdown_table(["order", *EFFECTS], lines)


def _agreement_by_family(responses: pd.DataFrame) -> str:
    rows = responses.loc[
        (responses["response"] == "agreement")
        & (responses["order"] == FORWARD)
        & (responses["baseline"] == DEFAULT.baseline)
    ]
    lines = []
    for family, own in rows.groupby("group", sort=False):
        for value in (PROB, LOGPROB):
            of_value = own.loc[own["value"] == value]
            cells = _cells(of_value, "against", list(EFFECTS))
            lines.append([str(family), _VALUE_NAMES[value], *cells])
    return markdown_table(["family", "value", *EFFECTS], lines)


def _agreement_by_baseline(responses: pd.DataFrame) -> str:
    rows = _chosen(responses, "agreement", value=PROB)
    rows = rows.loc[rows["against"] == next(iter(EFFECTS))]
    lines = [
        [str(order), *_cells(own, "baseline", BASELINES)]
        for order, own in rows.groupby("order", sort=False)
    ]
    title = f'By baseline, with p and "{next(iter(EFFECTS))}":\n\n'
    return title + markdown_table(["order", *BASELINES], lines)


def _costs(study: Study) -> str:
    rows = []
    for row in _records(study.costs):
        steps = f", m = {row['n_steps']}" if row["n_steps"] else ""
        rows.append(
            [
                row["order"],
                f"{row['estimator']}{steps}",
                f"{1000 * row['seconds']:.0f}",
                f"{row['forward_passes']:.1f}",
            ]
        )
    return markdown_table(["order", "estimator", "milliseconds", "forward passes"], rows)


def _chosen(responses: pd.DataFrame, response: str, **equal: str) -> pd.DataFrame:
    """Return the rows of a response, of items with right answers unless a group is named."""
    rows = responses.loc[responses["response"] == response]
    for column, wanted in ({"group": RIGHT} | equal).items():
        rows = rows.loc[rows[column] == wanted]
    return rows


def _by_order_and_value(rows: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    groups: Any = rows.groupby(["order", "value"], sort=False)
    return list(groups)


def _cells(
    rows: pd.DataFrame, column: str, wanted: Sequence[object], *, digits: int = 2
) -> list[str]:
    """Return what a column's wanted entries have, blank for those that were not measured."""
    found = {row[column]: _cell(row, digits) for row in _records(rows)}
    return [found.get(name, "") for name in wanted]


def _cell(row: dict, digits: int = 2) -> str:
    if pd.isna(row["mean"]):
        return row["note"]
    if pd.isna(row["low"]):
        return f"{row['mean']:.{digits}f} ({row['note']})"
    return f"{row['mean']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"


def _records(rows: pd.DataFrame) -> list[dict]:
    return rows.to_dict("records")
