"""Means over items, with intervals over prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from experiments.causal.items import WRONG
from iglens_tl.causal.agreement import SKIP_CURVES
from iglens_tl.causal.averages import average
from iglens_tl.causal.metrics import metrics

ALL = "all"
"""The name of all families together but the control of wrong answers."""

_TOP_K = (1, 3, 5)
_KEYS = ["condition", "segments", "credits", "effects"]
_REASONS = {metric.name: metric.undefined for metric in metrics(_TOP_K)}
_RESAMPLES = 1000


def summarise(scores: pd.DataFrame, *, n_resamples: int = _RESAMPLES) -> pd.DataFrame:
    """Average the scores of items over each family, and over all families but the control.

    Returns:
        One row per family, condition, segments, credits, effects and metric: `mean` over the items
        for which it is defined, the ends `low` and `high` of its 95 % bootstrap interval, `items`,
        how many these are, and `note`, what is missing and why. Metrics that a pair does not have,
        as areas of curves, have no row.
    """
    names = [name for name in scores.columns if name not in (*_KEYS, "family", "item")]
    scores = scores.assign(prompt=scores.groupby(["family", "item"], sort=False).ngroup())
    right = scores[scores["family"] != WRONG]
    groups = [(ALL, right)] if len(right) else []
    groups += [(family, part) for family, part in scores.groupby("family", sort=False)]
    rows = []
    for family, of_family in groups:
        for keys, part in of_family.groupby(_KEYS, sort=False):
            prompts = part["prompt"].to_numpy()
            for name in names:
                if (name in _REASONS) == (keys[-1] == SKIP_CURVES):
                    continue
                numbers = part[name].to_numpy(dtype=float, na_value=np.nan)
                row = average(
                    numbers, prompts, reason=_REASONS.get(name, ""), n_resamples=n_resamples
                )
                rows.append(
                    {"family": family, **dict(zip(_KEYS, keys, strict=True)), "metric": name, **row}
                )
    return pd.DataFrame(rows).astype(dict.fromkeys(("mean", "low", "high"), "Float64"))


def mean_changes(changes: pd.DataFrame, *, n_resamples: int = _RESAMPLES) -> pd.DataFrame:
    """Average what measures say of each segment over the items of each family, and of all.

    Returns:
        One row per family, condition, kind, side, measure and segment: `mean`, `low`, `high`,
        `items` and `unit`.
    """
    keys = ["family", "condition", "kind", "side", "measure", "segment"]
    changes = changes.assign(prompt=changes.groupby(["family", "item"], sort=False).ngroup())
    right = changes[changes["family"] != WRONG].assign(family=ALL)
    rows = []
    for values, part in pd.concat([right, changes]).groupby(keys, sort=False):
        row = average(
            part["change"].to_numpy(), part["prompt"].to_numpy(), reason="", n_resamples=n_resamples
        )
        rows.append({**dict(zip(keys, values, strict=True)), **row, "unit": part["unit"].iloc[0]})
    frame = pd.DataFrame(rows).drop(columns="note")
    return frame.astype(dict.fromkeys(("mean", "low", "high"), "Float64"))


def select(table: pd.DataFrame, **wanted: str | Sequence[str]) -> pd.DataFrame:
    """Return the rows whose columns have certain values, one or one of several."""
    chosen = np.ones(len(table), dtype=bool)
    for column, values in wanted.items():
        allowed = [values] if isinstance(values, str) else list(values)
        chosen &= table[column].isin(allowed).to_numpy()
    return table[chosen]
