"""Means with standard errors, and rank correlations with bootstrap intervals, over cases."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from iglens_tl.results.agreement import rank_correlations

_RESAMPLES = 1000


def mean_and_error(numbers: Float[np.ndarray, "case ..."]) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over cases and its standard error."""
    return numbers.mean(0), numbers.std(0, ddof=1) / np.sqrt(len(numbers))


def rank_correlation_of_means(
    left: Float[np.ndarray, "case item"], right: Float[np.ndarray, "case item"], *, seed: int = 0
) -> tuple[float, float, float]:
    """Return Spearman's rank correlation of the means over cases, with its 95 % interval.

    The interval comes from drawing cases with replacement, the same for both sides.
    """
    drawn = np.random.default_rng(seed).integers(len(left), size=(_RESAMPLES, len(left)))
    weights = np.stack([np.bincount(row, minlength=len(left)) for row in drawn]) / len(left)
    low, high = np.quantile(rank_correlations(weights @ left, weights @ right), [0.025, 0.975])
    found = rank_correlations(left.mean(0, keepdims=True), right.mean(0, keepdims=True))
    return float(found[0]), float(low), float(high)


def mean_rank_correlation(
    left: Float[np.ndarray, "case item"], right: Float[np.ndarray, "case item"]
) -> tuple[float, float]:
    """Return the mean over cases of Spearman's rank correlation, and its standard error."""
    mean, error = mean_and_error(rank_correlations(left, right))
    return float(mean), float(error)
