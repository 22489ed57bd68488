"""Differences of means with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_DRAWS = 2000


@dataclass(frozen=True)
class Difference:
    """By how much one mean is above another.

    Attributes:
        mean: The difference.
        low: Lower end of its 95 % interval.
        high: Upper end.
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def paired_difference(
    left: Sequence[float], right: Sequence[float], *, seed: int = 0
) -> Difference:
    """Compare two numbers of each item; items are drawn with replacement."""
    differences = np.subtract(left, right)
    return _summary(differences.mean(), _drawn_means(differences, np.random.default_rng(seed)))


def unpaired_difference(
    left: Sequence[float], right: Sequence[float], *, seed: int = 0
) -> Difference:
    """Compare the numbers of different items; both sides are drawn with replacement."""
    rng = np.random.default_rng(seed)
    means = [_drawn_means(np.asarray(side, dtype=float), rng) for side in (left, right)]
    return _summary(np.mean(left) - np.mean(right), means[0] - means[1])


def _drawn_means(numbers: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.choice(numbers, (_DRAWS, len(numbers))).mean(1)


def _summary(mean: np.floating, drawn: np.ndarray) -> Difference:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Difference(float(mean), float(low), float(high))
