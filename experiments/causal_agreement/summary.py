"""Means over items, with intervals over prompts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from experiments.common.items import WRONG
from iglens_tl.evaluation.agreement import SKIP_CURVES
from iglens_tl.evaluation.metrics import metrics
from iglens_tl.results.statistics import average

ALL = "all"
"""The name of all families together but the control of wrong answers."""

_TOP_K = (1, 3, 5)
_KEYS = ["condition", "segments", "credits", "effects"]
_REASONS = {metric.name: metric.undefined for metric in metrics(_TOP_K)}
_RESAMPLES = 1000
_ENDS = (0.025, 0.975)


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
    groups: list[tuple[Any, Any]] = [(ALL, right)] if len(right) else []
    groups += [(family, part) for family, part in scores.groupby("family", sort=False)]
    rows = []
    for family, of_family in groups:
        for keys, part in _groups(of_family, _KEYS):
            shown = [name for name in names if (name in _REASONS) != (keys[-1] == SKIP_CURVES)]
            about = {"family": family, **dict(zip(_KEYS, keys, strict=True))}
            found = _averages(part, shown, n_resamples)
            rows += [{**about, "metric": name, **found[name]} for name in shown]
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
    for values, part in _groups(pd.concat([right, changes]), keys):
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
    return table.loc[chosen]


def _groups(table: pd.DataFrame, keys: list[str]) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    for values, part in table.groupby(keys, sort=False):
        assert isinstance(values, tuple)
        yield values, part


def _averages(
    part: pd.DataFrame, names: Sequence[str], n_resamples: int
) -> dict[str, dict[str, Any]]:
    """Return what `average` says of some columns, those without gaps all at once."""
    prompts = part["prompt"].to_numpy()
    numbers = part[list(names)].to_numpy(dtype=float, na_value=np.nan)
    found = {
        name: average(
            numbers[:, column],
            prompts,
            reason=_REASONS.get(name, ""),
            n_resamples=n_resamples if np.isnan(numbers[:, column]).any() else 1,
        )
        for column, name in enumerate(names)
    }
    if len(prompts) > 1:
        whole = [column for column in range(len(names)) if not np.isnan(numbers[:, column]).any()]
        means = _weights(len(prompts), n_resamples) @ numbers[:, whole]
        for column, ends in zip(whole, np.quantile(means, _ENDS, axis=0).T, strict=True):
            low, high = map(float, ends)
            found[names[column]] |= {"low": low, "high": high}
    return found


@lru_cache(maxsize=8)
def _weights(n_prompts: int, n_resamples: int) -> Float[np.ndarray, "resample prompt"]:
    """Return the weight of each prompt in each bootstrap sample."""
    rng = np.random.default_rng(0)
    return rng.multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), n_resamples) / n_prompts
