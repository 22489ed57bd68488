"""Onset: the first segment by which a target's value has been produced."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int

from iglens_tl.results.data import LensData


def onset_index(
    data: LensData, *, rule: str = "mass", fraction: float = 0.5
) -> Int[np.ndarray, " target"]:
    """Find the onset segment of every target.

    Args:
        data: A result.
        rule: "mass", the rule of the IG-Lens paper (arXiv 2606.29693): the first segment where the
            cumulative |change| reaches the fraction of the total |change|. The change of an
            additive lens is its value, that of a level lens the difference of two levels; layers
            that cancel each other count. "persistent": the first segment from which on the level
            has made, and never again loses, the fraction of its change from baseline to final.
        fraction: The fraction, in (0, 1].

    Returns:
        `[target]` indices into `data.segments`. A target whose value never changes has its onset
        in the last segment.

    Raises:
        ValueError: For an unknown rule or a fraction outside (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be above 0 and at most 1, got {fraction}")
    last = len(data.segments) - 1
    if rule == "mass":
        mass = np.cumsum(np.abs(data.changes), axis=1)
        reached = mass >= fraction * mass[:, -1:]
        return np.where(mass[:, -1] == 0, last, reached.argmax(axis=1))
    if rule == "persistent":
        change = data.final - data.baseline
        progress = np.sign(change)[:, None] * (data.levels - data.baseline[:, None])
        reached = progress >= fraction * np.abs(change)[:, None]
        # The run of segments that reaches the end, counted from the end.
        persistent = np.cumprod(reached[:, ::-1], axis=1).sum(axis=1)
        return np.where(change == 0, last, np.minimum(last, len(data.segments) - persistent))
    raise ValueError(f"unknown onset rule {rule!r}; choose mass or persistent")
