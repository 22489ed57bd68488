"""Credits of the segments of paths: exactly, by quadrature, or by the paper's midpoint rule."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iglens_tl.lenses.states import Paths
from iglens_tl.readout import (
    Chords,
    Readout,
    Value,
    integrate_adaptive,
    integrate_midpoint,
    read_states,
)

ESTIMATORS = {
    "delta": "change of the value over the segment; exact",
    "gradient": "integral of the slope along the segment, controlled to a tolerance",
    "riemann": "the same integral by the paper's midpoint rule with n_steps steps",
}
"""The estimators of a segment's credit. All converge to `delta`."""

_DEFAULT_STEPS = {"gradient": 32, "riemann": 64}
_DEFAULT_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


class CompletenessWarning(UserWarning):
    """Credits miss the change of the value by more than they should."""


@dataclass(frozen=True)
class Estimator:
    """A resolved estimator.

    Attributes:
        name: One of `ESTIMATORS`.
        n_steps: Steps of `riemann`, nodes per piece of `gradient`; None for `delta`.
        tolerance: Largest accepted error of `gradient` per piece; None for the others.
    """

    name: str
    n_steps: int | None = None
    tolerance: float | None = None


@dataclass(frozen=True)
class Credits:
    """Values along paths and the credits of their segments.

    Attributes:
        levels: `[target, point]`, the value at every visited state, the baseline first.
        credits: `[target, segment]`.
        ranks: `[target, segment]`, rank of the target at the segment's end, or None.
        top_ids: `[target, segment, top]`, most probable tokens at the segment's end, or None.
        top_probs: `[target, segment, top]`, their probabilities, or None.
    """

    levels: Float[Tensor, "target point"]
    credits: Float[Tensor, "target segment"]
    ranks: Int[Tensor, "target segment"] | None
    top_ids: Int[Tensor, "target segment top"] | None
    top_probs: Float[Tensor, "target segment top"] | None


def resolve_estimator(name: str, *, n_steps: Any, tolerance: float | None) -> Estimator:
    """Check an estimator's name and options.

    Raises:
        TypeError: For a number of steps that is no integer.
        ValueError: For an unknown name, or an option that the estimator does not have.
    """
    if name not in ESTIMATORS:
        raise ValueError(f"unknown estimator {name!r}; choose one of {', '.join(ESTIMATORS)}")
    if n_steps is not None:
        if isinstance(n_steps, bool) or not isinstance(n_steps, int):
            raise TypeError(f"n_steps must be an integer, got {type(n_steps).__name__}")
        if name == "delta":
            raise ValueError("the delta estimator is exact and has no steps; leave out n_steps")
        if n_steps < 1:
            raise ValueError(f"n_steps must be at least 1, got {n_steps}")
    if tolerance is not None:
        if name != "gradient":
            raise ValueError(f"the {name} estimator has no tolerance; only gradient has")
        if not tolerance > 0:
            raise ValueError(f"tolerance must be positive, got {tolerance}")
    return Estimator(name, n_steps or _DEFAULT_STEPS.get(name), tolerance)


def estimate_credits(
    readout: Readout, paths: Paths, value: Value, estimator: Estimator, *, top_k: int = 0
) -> Credits:
    """Read the visited states out and credit each segment with its part of the change.

    Args:
        readout: The model's readout.
        paths: The states that each target's path visits.
        value: What is attributed.
        estimator: How credits are computed.
        top_k: How many of the most probable tokens to keep per state; 0 skips them and the ranks.

    Returns:
        Levels and credits in float64.

    Raises:
        ValueError: If a level is NaN or infinite.
    """
    n_targets, n_points = paths.visits.shape
    pair_states, order = paths.visits.reshape(-1).sort(stable=True)
    pair_tokens = paths.token_ids.repeat_interleave(n_points)[order]
    reading = read_states(
        readout,
        paths.states,
        pair_states=pair_states,
        pair_tokens=pair_tokens,
        top_k=top_k,
        n_ranked=paths.n_chain_states,
    )
    of_pairs = value.evaluate(reading.target_logits, reading.log_normalizers[pair_states])
    levels = torch.empty_like(of_pairs)
    levels[order] = of_pairs
    levels = levels.view(n_targets, n_points)
    if not bool(torch.isfinite(levels).all()):
        raise ValueError(
            "a state has no finite readout; the zero baseline needs a final norm with eps above 0"
        )
    credits = levels.diff(dim=1)
    if estimator.name != "delta":
        credits = _integrate(readout, paths, value, estimator, credits)
    ranks = top_ids = top_probs = None
    if reading.ranks is not None and reading.top_ids is not None and reading.top_probs is not None:
        # The pairs at baselines come last in state order and have no rank.
        unordered = torch.zeros_like(order)
        unordered[order[: len(reading.ranks)]] = reading.ranks
        ranks = unordered.view(n_targets, n_points)[:, 1:]
        top_ids, top_probs = (t[paths.visits[:, 1:]] for t in (reading.top_ids, reading.top_probs))
    return Credits(levels, credits, ranks, top_ids, top_probs)


def _integrate(
    readout: Readout, paths: Paths, value: Value, estimator: Estimator, change: Tensor
) -> Tensor:
    n_segments = change.shape[1]
    chords = Chords(
        paths.states,
        start=paths.visits[:, :-1].reshape(-1),
        end=paths.visits[:, 1:].reshape(-1),
        tokens=paths.token_ids.repeat_interleave(n_segments),
    )
    n_steps = estimator.n_steps or _DEFAULT_STEPS[estimator.name]
    scale = max(1.0, change.abs().max().item())
    if estimator.name == "riemann":
        credits = integrate_midpoint(readout, value, chords, n_steps=n_steps)
        # The paper reports errors of a thousandth at its default step count.
        accepted = 1e-2 * scale
    else:
        tolerance = scale * (estimator.tolerance or _DEFAULT_TOLERANCE[readout.dtype])
        credits = integrate_adaptive(
            readout,
            value,
            chords,
            change=change.reshape(-1),
            n_nodes=n_steps,
            tolerance=tolerance,
        )
        accepted = 10 * tolerance
    credits = credits.view_as(change)
    from_zero = not bool(paths.states[paths.visits[:, 0]].any())
    _warn_if_incomplete(estimator, (credits - change).sum(1), accepted, from_zero)
    return credits


def _warn_if_incomplete(
    estimator: Estimator, error: Tensor, accepted: float, from_zero: bool
) -> None:
    worst = error.abs().max().item()
    if worst <= accepted:
        return
    message = (
        f"the credits of {int((error.abs() > accepted).sum())} of {len(error)} targets miss their "
        f"total by up to {worst:.2g} (column 'error') with the {estimator.name} estimator and "
        f"{estimator.n_steps} steps; use estimator='delta', which is exact"
    )
    if from_zero:
        message += (
            ". The final norm ignores the length of a state, so from the zero baseline nearly all "
            "change happens at the very beginning of the first segment, between the steps"
        )
    warnings.warn(message, CompletenessWarning, stacklevel=5)
