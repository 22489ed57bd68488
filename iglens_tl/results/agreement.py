"""How far lenses agree on which layers matter."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float

from iglens_tl.results.data import LensData
from iglens_tl.results.frames import target_index
from iglens_tl.results.statistics import average

SHUFFLED = ", layers shuffled"
"""What is added to the name of credits whose segments were permuted at random."""

_SMALLEST_CHANGE = 1e-12


def pairwise_agreement_by_target(results: Sequence[LensData]) -> pd.DataFrame:
    """Compare every pair of lenses on every target.

    Two lenses are compared on the segments that both have, by what changes in each: the credits of
    an additive lens, the differences of a level lens. A level lens says nothing about the first
    segment, which it begins with.

    Returns:
        One row per pair and target: `rank_correlation` (Spearman) and `sign_agreement`, the share
        of segments whose changes point the same way. NaN where a lens has no change to rank.
    """
    index = target_index(results[0]).to_frame(index=False)
    parts = []
    for first, second in combinations(results, 2):
        _, left, right = common_changes(first, second)
        part = index.copy()
        part.insert(0, "lens", first.name)
        part.insert(1, "other", second.name)
        part["rank_correlation"] = rank_correlations(left, right)
        part["sign_agreement"] = sign_agreements(left, right)
        parts.append(part)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def pairwise_agreement(results: Sequence[LensData], *, seed: int = 0) -> pd.DataFrame:
    """Average the agreement of every pair of lenses over the targets.

    Returns:
        One row per pair: the mean `rank_correlation` with the ends `low` and `high` of its 95 %
        bootstrap interval over prompts (all targets of a prompt are drawn together, because they
        are not independent), the mean `sign_agreement`, the number of `targets` that have a rank
        correlation, and a `note` where there is no interval or something is undefined.
    """
    by_target = pairwise_agreement_by_target(results)
    rows = []
    for first, second in combinations([data.name for data in results], 2):
        part = by_target[(by_target["lens"] == first) & (by_target["other"] == second)]
        found = average(
            np.asarray(part["rank_correlation"], dtype=float),
            part["prompt"].to_numpy(),
            reason="one of the lenses has no change to rank",
            seed=seed,
        )
        rows.append(
            {
                "lens": first,
                "other": second,
                "rank_correlation": found["mean"],
                "low": found["low"],
                "high": found["high"],
                "sign_agreement": part["sign_agreement"].mean(),
                "targets": found["items"],
                "note": found["note"],
            }
        )
    columns = dict.fromkeys(("rank_correlation", "low", "high"), "float64")
    return pd.DataFrame(rows).astype(columns) if rows else pd.DataFrame()


def monotonicity(results: Sequence[LensData]) -> pd.DataFrame:
    """Count for every level lens how often the level moves away from where it ends.

    Returns:
        One row per level lens and target: the number of segments that move against the change from
        the first level to the last (`violations`), and how far they move in all (`backtracking`).
    """
    parts = []
    for data in results:
        if data.additive:
            continue
        direction = np.sign(data.final - data.baseline)[:, None]
        against = np.clip(-direction * data.changes, 0, None)
        part = target_index(data).to_frame(index=False)
        part.insert(0, "lens", data.name)
        part["violations"] = (against > _SMALLEST_CHANGE).sum(axis=1)
        part["backtracking"] = against.sum(axis=1)
        parts.append(part)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def rank_correlations(
    left: Float[np.ndarray, "target segment"], right: Float[np.ndarray, "target segment"]
) -> Float[np.ndarray, " target"]:
    """Return Spearman's rank correlation over the segments, NaN where all are equal or only one."""
    if left.shape[1] < 2:
        return np.full(len(left), np.nan)
    ranks = [pd.DataFrame(changes).rank(axis=1).to_numpy() for changes in (left, right)]
    x, y = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    norm = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return np.divide((x * y).sum(axis=1), norm, out=np.full(len(x), np.nan), where=norm > 0)


def sign_agreements(
    left: Float[np.ndarray, "target segment"], right: Float[np.ndarray, "target segment"]
) -> Float[np.ndarray, " target"]:
    """Return the share of the segments that move on both sides in which both move the same way.

    NaN where no segment does; changes below 1e-12 are no movement.
    """
    moving = (np.abs(left) > _SMALLEST_CHANGE) & (np.abs(right) > _SMALLEST_CHANGE)
    same = ((left > 0) == (right > 0)) & moving
    n_moving = moving.sum(axis=1)
    return np.divide(same.sum(axis=1), n_moving, out=np.full(len(left), np.nan), where=n_moving > 0)


def common_changes(
    first: LensData, second: LensData
) -> tuple[
    tuple[str, ...], Float[np.ndarray, "target segment"], Float[np.ndarray, "target segment"]
]:
    """Return the segments that two results can be compared on, and what changes in each.

    They are those that both have, in the order of the first, without the segment that a level
    begins with: what changed before it is not known.
    """
    begins = {data.segments[0] for data in (first, second) if data.kind in ("level", "value")}
    common = [
        segment
        for segment in first.segments
        if segment in second.segments and segment not in begins
    ]
    left, right = (
        data.changes[:, [data.segments.index(segment) for segment in common]]
        for data in (first, second)
    )
    return tuple(common), left, right
