"""The tables of a validation: credits and nulls against effects, and along skip curves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd

from iglens_tl.evaluation.agreement import SKIP_CURVES, agreement, agreement_by_item
from iglens_tl.evaluation.runs import Measured
from iglens_tl.results.agreement import SHUFFLED
from iglens_tl.results.curves import RANDOM, SkipCurves
from iglens_tl.results.frames import TARGET_COLUMNS
from iglens_tl.results.statistics import average
from iglens_tl.results.validation import NULLS, RANDOM_TARGET, RANDOM_WEIGHTS

_NO_GAIN = "skipping layers in the order of their own effects gains nothing"


def agreement_tables(
    measured: Measured, *, nulls: bool, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the averages over targets with their intervals, and the same target by target."""
    curves = measured.curves
    shown = {name: name for name in measured.credits if name in curves.deletion}
    if nulls:
        shown |= {name + SHUFFLED: RANDOM for name in list(shown)}
    averages = [_averages_of_curves(curves, name, order, seed) for name, order in shown.items()]
    items = [_items_of_curves(curves, name, order) for name, order in shown.items()]
    return (
        _in_order(pd.concat([*_compared(agreement, measured, nulls, seed), *averages]), measured),
        _in_order(
            pd.concat([*_compared(agreement_by_item, measured, nulls, seed), *items]), measured
        ),
    )


def _compared(
    function: Callable[..., pd.DataFrame], measured: Measured, nulls: bool, seed: int
) -> list[pd.DataFrame]:
    """Compare credits, and what stands for chance, with effects."""
    tables = [function(measured.credits, measured.effects, nulls=nulls, seed=seed)]
    for ending, credits, effects in (
        (RANDOM_TARGET, measured.random_targets, measured.effects),
        (RANDOM_WEIGHTS, measured.random_credits, measured.random_effects),
    ):
        if credits:
            named = {name + ending: result for name, result in credits.items()}
            tables.append(function(named, effects, seed=seed))
    return tables


def _averages_of_curves(curves: SkipCurves, name: str, order: str, seed: int) -> pd.DataFrame:
    prompts = pd.Series([target.prompt for target in curves.targets]).to_numpy()
    rows: list[dict[str, Any]] = []
    for metric, numbers in curves.areas_of(order).items():
        row = average(numbers, prompts, reason=_NO_GAIN, seed=seed)
        rows.append({"credits": name, "effects": SKIP_CURVES, "metric": metric, **row})
    return pd.DataFrame(rows).astype(dict.fromkeys(("mean", "low", "high"), "Float64"))


def _items_of_curves(curves: SkipCurves, name: str, order: str) -> pd.DataFrame:
    columns = {key: [getattr(t, key) for t in curves.targets] for key in TARGET_COLUMNS}
    named = {"credits": name, "effects": SKIP_CURVES, **columns}
    areas = pd.DataFrame(curves.areas_of(order)).astype("Float64")
    return pd.concat([pd.DataFrame(named), areas], axis=1)


def _in_order(table: pd.DataFrame, measured: Measured) -> pd.DataFrame:
    """Sort the rows by effects, then by credits, each followed by its nulls."""
    credits = [name + ending for name in measured.credits for ending in ("", *NULLS)]
    effects = [*measured.effects, SKIP_CURVES]
    keys = pd.DataFrame(
        {
            "effects": table["effects"].map(effects.index),
            "credits": table["credits"].map(credits.index),
        }
    ).reset_index(drop=True)
    order = keys.sort_values(["effects", "credits"], kind="stable").index
    return table.reset_index(drop=True).loc[order].reset_index(drop=True)
