"""Metrics of agreement between credits and causal effects: one number for every target.

All functions take credits and effects as `[target, segment]` and return one number per target, NaN
where it is undefined. Nothing depends on the order of segments: where several of them are equal,
each gets its mean over all orders of the equal ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from iglens_tl.results.agreement import rank_correlations, sign_agreements


@dataclass(frozen=True)
class Metric:
    """A metric by name.

    Attributes:
        name: Its name in tables.
        measure: The function of credits and effects.
        undefined: Why it may be undefined, in words.
        same_unit: Whether credits and effects must be in one unit.
    """

    name: str
    measure: Callable[[np.ndarray, np.ndarray], np.ndarray]
    undefined: str
    same_unit: bool = False


def metrics(overlaps: Sequence[int]) -> list[Metric]:
    """Return all metrics, one top-k overlap for every k.

    Args:
        overlaps: Numbers of segments.
    """
    one_side_equal = "all credits or all effects equal"
    return [
        Metric("spearman", rank_correlations, one_side_equal),
        Metric("kendall", kendall, one_side_equal),
        Metric("pearson", pearson, one_side_equal),
        Metric("sign_agreement", sign_agreements, "no segment with both a credit and an effect"),
        *(
            Metric(f"top_{k}_overlap", partial(top_k_overlap, k=k), f"not more than {k} segments")
            for k in overlaps
        ),
        Metric("ndcg", ndcg, "no positive effect"),
        Metric("routing_gap", routing_gap, "all effects zero", same_unit=True),
        Metric("calibration_slope", calibration_slope, "all credits equal", same_unit=True),
    ]


def kendall(
    credits: Float[np.ndarray, "target segment"], effects: Float[np.ndarray, "target segment"]
) -> Float[np.ndarray, " target"]:
    """Return Kendall's tau-b: pairs in the same order less pairs in opposite order, ties corrected.

    NaN where all credits or all effects are equal.
    """
    first, second = np.triu_indices(credits.shape[1], k=1)
    found = np.full(len(credits), np.nan)
    # One target at a time: all pairs of all targets' segments would fill the memory.
    for target, sides in enumerate(zip(credits, effects, strict=True)):
        left, right = (np.sign(side[first] - side[second]) for side in sides)
        untied = np.sqrt(float((left != 0).sum()) * float((right != 0).sum()))
        if untied > 0:
            found[target] = (left * right).sum() / untied
    return found


def pearson(
    credits: Float[np.ndarray, "target segment"], effects: Float[np.ndarray, "target segment"]
) -> Float[np.ndarray, " target"]:
    """Return Pearson's correlation of the signed values, NaN where one side is constant."""
    left, right = (_standardized(x) for x in (credits, effects))
    return np.clip((left * right).sum(axis=1), -1, 1)


def top_k_overlap(
    credits: Float[np.ndarray, "target segment"],
    effects: Float[np.ndarray, "target segment"],
    *,
    k: int,
) -> Float[np.ndarray, " target"]:
    """Return the share of the k most credited segments that are among the k of largest effect.

    Largest means most positive. Chance gives k / number of segments. NaN unless there are more
    than k segments, because all of them are always the same.
    """
    if credits.shape[1] <= k:
        return np.full(len(credits), np.nan)
    left, right = (_chance_of_top(x, k) for x in (credits, effects))
    return (left * right).sum(axis=1) / k


def ndcg(
    credits: Float[np.ndarray, "target segment"], effects: Float[np.ndarray, "target segment"]
) -> Float[np.ndarray, " target"]:
    """Return the normalised discounted cumulative gain of the ranking by credit.

    The gain of a segment is the positive part of its effect, the discount at rank r is
    `1 / log2(r + 1)`, and 1 is the ranking by effect (Järvelin and Kekäläinen, "Cumulated
    gain-based evaluation of IR techniques", 2002). NaN where no effect is positive.
    """
    gains = np.clip(effects, 0, None)
    discounts = 1 / np.log2(np.arange(credits.shape[1]) + 2)
    up_to = np.concatenate([[0.0], discounts.cumsum()])
    above, tied = _ranks_of(credits)
    found = (gains * (up_to[above + tied] - up_to[above]) / tied).sum(axis=1)
    best = (-np.sort(-gains, axis=1) * discounts).sum(axis=1)
    return _divide(found, best)


def routing_gap(
    credits: Float[np.ndarray, "target segment"], effects: Float[np.ndarray, "target segment"]
) -> Float[np.ndarray, " target"]:
    """Return `Σ|effect − credit| / Σ|effect|`: 0 for equal numbers, 1 for credits of zero.

    What it measures of the hidden-state path is what layers do by way of later layers, hence the
    name. NaN where all effects are zero.
    """
    return _divide(np.abs(effects - credits).sum(axis=1), np.abs(effects).sum(axis=1))


def calibration_slope(
    credits: Float[np.ndarray, "target segment"], effects: Float[np.ndarray, "target segment"]
) -> Float[np.ndarray, " target"]:
    """Return the least squares slope of effect on credit, with an intercept.

    1 means that a difference of credits is a difference of effects of the same size. NaN where all
    credits are equal.
    """
    norm = _norm(credits)
    return _divide((_standardized(credits) * _centred(effects)).sum(axis=1), norm)


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    out = np.full(len(numerator), np.nan)
    return np.divide(numerator, denominator, out=out, where=denominator > 0)


def _centred(values: np.ndarray) -> np.ndarray:
    return values - values.mean(axis=1, keepdims=True)


def _norm(values: np.ndarray) -> np.ndarray:
    """Return the norm of what a row has beyond its mean, exactly 0 for a constant row."""
    constant = values.max(axis=1, initial=-np.inf) <= values.min(axis=1, initial=np.inf)
    return np.where(constant, 0, np.linalg.norm(_centred(values), axis=1))


def _standardized(values: np.ndarray) -> np.ndarray:
    norm = _norm(values)[:, None]
    out = np.full(values.shape, np.nan)
    return np.divide(_centred(values), norm, out=out, where=norm > 0)


def _ranks_of(
    values: Float[np.ndarray, "target segment"],
) -> tuple[Int[np.ndarray, "target segment"], Int[np.ndarray, "target segment"]]:
    """Return for every segment how many have a larger value, and how many an equal one."""
    lowest, highest = (pd.DataFrame(values).rank(axis=1, method=way) for way in ("min", "max"))
    above = values.shape[1] - highest.to_numpy().astype(int)
    return above, (highest - lowest).to_numpy().astype(int) + 1


def _chance_of_top(values: np.ndarray, k: int) -> np.ndarray:
    """Return the probability that each segment is among the top k, ties drawn at random."""
    above, tied = _ranks_of(values)
    return np.clip((k - above) / tied, 0, 1)
