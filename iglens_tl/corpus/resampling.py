"""Bootstrap intervals over texts, whose targets are drawn together.

A resample draws texts with replacement, as many as there are. Where there are very many, what is
drawn are groups of texts: sums over groups of independent texts are as independent, and their
number does not grow with the corpus.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

UNITS = 1024
"""How many texts, or groups of texts, are drawn at most."""

ENDS = (0.025, 0.975)
"""The quantiles at which an interval ends."""

_STEPS = np.geomspace(1e-4, 0.5, 128)
# Ranks, as shares, at which the bins of a median begin: finer towards the middle.
_QUANTILES = np.concatenate([0.5 - _STEPS[::-1], [0.5], 0.5 + _STEPS])


def draw(n_units: int, n_resamples: int, seed: int) -> Float[np.ndarray, "resample unit"]:
    """Return how often each unit is drawn in each resample."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_units, np.full(n_units, 1 / n_units), size=n_resamples).astype(float)


def ratios(
    numerators: Float[np.ndarray, "unit group number"],
    denominators: Float[np.ndarray, "unit group"],
    drawn: Float[np.ndarray, "resample unit"],
) -> tuple[Float[np.ndarray, "group number"], Float[np.ndarray, "end group number"]]:
    """Divide sums over all units, and over resamples of them.

    Returns:
        The ratios, and the ends of their 95 % intervals: missing where a single unit has a part in
        a group, whose resamples would all be equal.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        found = numerators.sum(0) / denominators.sum(0)[:, None]
        resampled = np.tensordot(drawn, numerators, 1) / (drawn @ denominators)[:, :, None]
    return found, _ends(resampled, (denominators != 0).sum(0))


def medians(
    values: Float[np.ndarray, " target"],
    units: Int[np.ndarray, " target"],
    drawn: Float[np.ndarray, "resample unit"],
) -> tuple[float, float, float]:
    """Return the median of some targets, and the ends of its 95 % interval.

    A resample's median is known up to a bin of values: bins are finer towards the median, and none
    is wider than 7 % of its distance from there, in ranks.
    """
    order = np.argsort(values)
    ranked = values[order]
    edges = np.unique(ranked[np.round(_QUANTILES * (len(ranked) - 1)).astype(int)])
    starts = np.searchsorted(ranked, edges)
    sizes = np.diff(starts, append=len(ranked))
    n_bins = len(edges)
    places = np.repeat(np.arange(n_bins), sizes)
    counts = np.bincount(units[order] * n_bins + places, minlength=drawn.shape[1] * n_bins)
    cumulated = (drawn @ counts.reshape(-1, n_bins)).cumsum(axis=1)
    total = cumulated[:, -1]
    bins = (cumulated >= total[:, None] / 2).argmax(axis=1)
    middles = ranked[starts + (sizes - 1) // 2]
    resampled = np.where(total > 0, middles[bins], np.nan)
    low, high = _ends(resampled[:, None], np.array([len(np.unique(units))]))[:, 0]
    return float(np.median(values)), float(low), float(high)


def _ends(
    resampled: Float[np.ndarray, "resample group *number"], n_units: Int[np.ndarray, " group"]
) -> Float[np.ndarray, "end group *number"]:
    """Return the ends of intervals, over the resamples in which a group was drawn at all."""
    shape = resampled.shape[1:]
    flat = resampled.reshape(len(resampled), -1)
    has_any = ~np.isnan(flat).all(axis=0)
    ends = np.full((len(ENDS), flat.shape[1]), np.nan)
    if has_any.any():
        ends[:, has_any] = np.nanquantile(flat[:, has_any], ENDS, axis=0)
    ends = ends.reshape(len(ENDS), *shape)
    ends[:, n_units < 2] = np.nan
    return ends
