"""Means over targets, with intervals that respect that a text's targets belong together."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int

_ENOUGH_PROMPTS = 10
_ENDS = (0.025, 0.975)


def average(
    numbers: Float[np.ndarray, " target"],
    prompts: Int[np.ndarray, " target"],
    *,
    reason: str,
    n_resamples: int = 2000,
    seed: int = 0,
) -> dict[str, float | int | str | None]:
    """Return the mean over the targets that have a number, its 95 % interval, and what is missing.

    Args:
        numbers: One for each target; NaN where undefined.
        prompts: The text of each target.
        reason: Why a number may be undefined.
        n_resamples: How many times as many prompts are drawn with replacement as there are.
        seed: Seed of the draws; equal numbers of prompts with one seed give the same draws.

    Returns:
        `mean`, `low` and `high`, None where they cannot be computed; `items`, how many targets have
        a number; and `note`, which says what is missing and why.
    """
    defined = ~np.isnan(numbers)
    notes = []
    if not defined.all():
        because = f" ({reason})" if reason else ""
        notes.append(f"undefined for {(~defined).sum()} of {len(numbers)} items{because}")
    mean = low = high = None
    if defined.any():
        mean = float(numbers[defined].mean())
        _, place = np.unique(prompts[defined], return_inverse=True)
        n_prompts = int(place.max()) + 1
        if n_prompts == 1:
            notes.append("one prompt: no interval")
        else:
            drawn = _draws(n_prompts, n_resamples, seed)
            sums = drawn @ np.bincount(place, weights=numbers[defined])
            means = sums / (drawn @ np.bincount(place))
            low, high = (float(end) for end in np.quantile(means, _ENDS))
            if n_prompts < _ENOUGH_PROMPTS:
                notes.append(f"only {n_prompts} prompts: the interval is rough")
    return {
        "mean": mean,
        "low": low,
        "high": high,
        "items": int(defined.sum()),
        "note": "; ".join(notes),
    }


@lru_cache(maxsize=8)
def _draws(n_prompts: int, n_resamples: int, seed: int) -> Int[np.ndarray, "resample prompt"]:
    """Return how often each prompt is drawn in each resample."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=n_resamples)
    drawn.setflags(write=False)
    return drawn
