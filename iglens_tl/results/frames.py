"""Results as pandas tables."""

from __future__ import annotations

import numpy as np
import pandas as pd

from iglens_tl.results.data import LensData
from iglens_tl.results.onset import onset_index

SUMMARY_COLUMNS = ("sum", "delta", "final", "baseline", "error", "onset")
"""The columns that follow the segments in a wide table."""

TARGET_COLUMNS = ("prompt", "position", "token_id", "token")
"""What names a target; the index of a wide table."""


def wide_frame(data: LensData) -> pd.DataFrame:
    """Return one row per target and one column per segment, then the summary columns."""
    frame = pd.DataFrame(data.values.copy(), columns=list(data.segments), index=_target_index(data))
    frame["sum"] = data.sums
    frame["delta"] = data.final - data.baseline
    frame["final"] = data.final
    frame["baseline"] = data.baseline
    frame["error"] = data.completeness_error
    frame["onset"] = onset_series(data)
    return frame


def tidy_frame(data: LensData) -> pd.DataFrame:
    """Return one row per target and segment."""
    n_targets, n_segments = data.values.shape
    index = _target_index(data).to_frame(index=False)
    frame = index.loc[index.index.repeat(n_segments)].reset_index(drop=True)
    frame.insert(0, "lens", data.lens)
    frame["segment"] = list(data.segments) * n_targets
    frame["value"] = data.values.reshape(-1)
    frame["level"] = data.levels.reshape(-1)
    frame["error"] = data.segment_error.reshape(-1)
    if data.ranks is not None:
        frame["rank"] = data.ranks.reshape(-1)
    frame["unit"] = data.unit
    return frame


def onset_series(data: LensData, *, rule: str = "mass", fraction: float = 0.5) -> pd.Series:
    """Return the onset segment of every target; see `iglens_tl.results.onset`."""
    index = onset_index(data, rule=rule, fraction=fraction)
    labels = np.array(data.segments, dtype=object)[index]
    return pd.Series(labels, index=_target_index(data), name="onset", dtype=object)


def _target_index(data: LensData) -> pd.MultiIndex:
    columns = [[getattr(target, name) for target in data.targets] for name in TARGET_COLUMNS]
    return pd.MultiIndex.from_arrays(columns, names=TARGET_COLUMNS)
