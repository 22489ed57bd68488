"""Results as pandas tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

from iglens_tl.results.data import LensData
from iglens_tl.results.onset import onset_index

SUMMARY_COLUMNS = ("sum", "delta", "final", "baseline", "error", "onset")
"""The columns that follow the segments in a wide table of an additive lens."""

LEVEL_SUMMARY_COLUMNS = ("final", "onset")
"""The same for a level lens, whose values do not sum to anything."""

TARGET_COLUMNS = ("prompt", "position", "token_id", "token")
"""The columns that name a target; the index of a wide table."""


def wide_frame(data: LensData) -> pd.DataFrame:
    """Return one row per target and one column per segment, then the summary columns."""
    frame = pd.DataFrame(data.values.copy(), columns=list(data.segments), index=target_index(data))
    summary = {
        "sum": data.sums,
        "delta": data.final - data.baseline,
        "final": data.final,
        "baseline": data.baseline,
        "error": largest_error(data),
        "onset": onset_series(data),
    }
    for column in summary_columns(data):
        frame[column] = summary[column]
    return frame


def summary_columns(data: LensData) -> tuple[str, ...]:
    """Return the names of the columns that follow the segments in a result's wide table."""
    return SUMMARY_COLUMNS if data.additive else LEVEL_SUMMARY_COLUMNS


def tidy_frame(data: LensData) -> pd.DataFrame:
    """Return one row per target and segment."""
    n_targets, n_segments = data.values.shape
    index = target_index(data).to_frame(index=False)
    frame = index.loc[index.index.repeat(n_segments)].reset_index(drop=True)
    frame.insert(0, "lens", data.name)
    frame["segment"] = list(data.segments) * n_targets
    frame["value"] = data.values.reshape(-1)
    frame["level"] = data.levels.reshape(-1)
    frame["error"] = data.segment_error.reshape(-1)
    if data.ranks is not None:
        frame["rank"] = data.ranks.reshape(-1)
    for name, numbers in data.statistics.items():
        frame[name] = numbers.reshape(-1)
    frame["unit"] = data.unit
    return frame


def onset_series(data: LensData, *, rule: str = "mass", fraction: float = 0.5) -> pd.Series:
    """Return the onset segment of every target; see `iglens_tl.results.onset`."""
    index = onset_index(data, rule=rule, fraction=fraction)
    labels = np.array(data.segments, dtype=object)[index]
    return pd.Series(labels, index=target_index(data), name="onset", dtype=object)


def largest_error(data: LensData) -> Float[np.ndarray, " target"]:
    """Return what the sum misses, or the largest error of a single credit where that is larger."""
    missing = data.completeness_error
    of_credits = np.abs(data.segment_error)
    if "credit_error" in data.statistics:
        of_credits = np.maximum(of_credits, data.statistics["credit_error"])
    largest = of_credits.max(axis=1, initial=0)
    # What both are of the same credits, up to rounding, keeps its sign.
    return np.where(largest > np.abs(missing) * (1 + 1e-9), largest, missing)


def target_index(data: LensData) -> pd.MultiIndex:
    """Return what names the targets: prompt, position, token id and token."""
    columns = [[getattr(target, name) for target in data.targets] for name in TARGET_COLUMNS]
    return pd.MultiIndex.from_arrays(columns, names=TARGET_COLUMNS)
