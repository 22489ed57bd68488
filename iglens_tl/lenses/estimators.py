"""Credits of the segments of paths: exactly, by quadrature, or by the paper's midpoint rule."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iglens_tl.readout import (
    ROWS_PER_PASS,
    Chords,
    Point,
    Readout,
    Value,
    integrate_adaptive,
    integrate_midpoint,
)

ESTIMATORS = {
    "delta": "change of the value over the segment; exact",
    "gradient": "integral of the slope along the segment, controlled to a tolerance",
    "riemann": "the same integral by the paper's midpoint rule with n_steps steps",
    "ps_ig": "the integral weighted by the place on the path (baselines drawn evenly from it)",
    "idgi": "the change over each of n_steps steps, split by the squares of the parts' slopes",
}
"""The estimators of credits. Those of whole segments converge to `delta`, but for `ps_ig`."""

if TYPE_CHECKING:
    ChainEstimator: TypeAlias = Literal["delta", "gradient", "riemann"]
    EstimatorName: TypeAlias = Literal["delta", "gradient", "riemann", "ps_ig", "idgi"]
else:  # anything may arrive here; it is answered with a readable error
    ChainEstimator = EstimatorName = Any

_DEFAULT_STEPS = {"gradient": 32, "riemann": 64, "ps_ig": 32, "idgi": 16}
_WITH_TOLERANCE = ("gradient", "ps_ig")
DEFAULT_TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


class CompletenessWarning(UserWarning):
    """Credits miss the change of the value by more than they should."""


@dataclass(frozen=True)
class Estimator:
    """A resolved estimator.

    Attributes:
        name: One of `ESTIMATORS`.
        n_steps: Steps of `riemann` and `idgi`, nodes per piece of `gradient` and `ps_ig`; None for
            `delta`.
        tolerance: Largest accepted error of `gradient` and `ps_ig` per segment, times the segment's
            change where that exceeds 1; None for its default.
    """

    name: str
    n_steps: int | None = None
    tolerance: float | None = None


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
        if name not in _WITH_TOLERANCE:
            having = " and ".join(_WITH_TOLERANCE)
            raise ValueError(f"the {name} estimator has no tolerance; {having} have")
        if not tolerance > 0:
            raise ValueError(f"tolerance must be positive, got {tolerance}")
    return Estimator(name, n_steps or _DEFAULT_STEPS.get(name), tolerance)


def credit_segments(
    readout: Readout,
    points: Sequence[Point],
    token_ids: Int[Tensor, " target"],
    levels: Float[Tensor, "target point"],
    value: Value,
    estimator: Estimator,
) -> Float[Tensor, "target segment"]:
    """Credit each segment between consecutive points with its part of the change.

    Args:
        readout: The model's readout.
        points: The states that the paths visit, the baseline first.
        token_ids: The targets.
        levels: The value at every point.
        value: What is attributed.
        estimator: How credits are computed.

    Returns:
        Credits in float64.
    """
    change = levels.diff(dim=1)
    if estimator.name == "delta":
        return change
    n_steps = estimator.n_steps or _DEFAULT_STEPS[estimator.name]
    scale = change.abs().clamp_min(1.0)
    tolerance = scale * (estimator.tolerance or DEFAULT_TOLERANCE[readout.dtype])
    credits = torch.empty_like(change)
    # A few targets at a time, so that the states are never copied as a whole.
    for targets in torch.arange(len(token_ids)).split(max(1, ROWS_PER_PASS // len(points))):
        chords = chords_of(points, token_ids, targets)
        if estimator.name == "riemann":
            found = integrate_midpoint(readout, value, chords, n_steps=n_steps)
        else:
            own = tolerance[targets].flatten()
            found = integrate_adaptive(readout, value, chords, n_nodes=n_steps, tolerance=own)
        credits[targets] = found.slopes.view(len(targets), -1)
    # The paper reports errors of a thousandth at the default step count of its midpoint rule.
    accepted = (1e-2 * scale if estimator.name == "riemann" else 10 * tolerance).amax(1)
    from_zero = not bool(points[0].states.any())
    errors = credits - change
    # Errors of segments may cancel in their sum.
    largest = torch.maximum(errors.sum(1).abs(), errors.abs().amax(1))
    warn_if_incomplete(estimator, largest, accepted, from_zero=from_zero)
    return credits


def chords_of(points: Sequence[Point], token_ids: Tensor, targets: Tensor) -> Chords:
    """Return the segments of some targets' paths, target by target; a path ends at the model's."""
    states, visits, first = [], [], 0
    for point in points:
        rows, places = point.target_rows[targets].unique(return_inverse=True)
        states.append(point.states[rows])
        visits.append(places + first)
        first += len(rows)
    path = torch.stack(visits, dim=1)
    return Chords(
        torch.cat(states),
        start=path[:, :-1].reshape(-1),
        end=path[:, 1:].reshape(-1),
        final=path[:, -1:].expand(-1, len(points) - 1).reshape(-1),
        tokens=token_ids[targets].repeat_interleave(len(points) - 1),
    )


def warn_if_incomplete(
    estimator: Estimator,
    error: Tensor,
    accepted: Float[Tensor, " target"],
    *,
    from_zero: bool,
    advice: str = "use estimator='delta', which is exact",
) -> None:
    """Warn of credits that miss their total by more than is accepted.

    Warns:
        CompletenessWarning: If one does.
    """
    missed = error.abs() > accepted
    if not bool(missed.any()):
        return
    worst = error[missed].abs().max().item()
    message = (
        f"the credits of {int(missed.sum())} of {len(error)} targets miss the change that they "
        f"divide by up to {worst:.2g} (column 'error') with the {estimator.name} estimator and "
        f"{estimator.n_steps} steps; {advice}"
    )
    if from_zero:
        message += (
            ". The final norm ignores the length of a state, so from the zero baseline nearly all "
            "change happens at the very beginning of the first segment, between the steps"
        )
    warnings.warn(message, CompletenessWarning, stacklevel=6)


def warn_if_uncertain(
    estimator: Estimator, errors: Float[Tensor, " target"], accepted: Float[Tensor, " target"]
) -> None:
    """Warn of credits of parts whose estimated error exceeds what is accepted.

    Warns:
        CompletenessWarning: If one does.
    """
    missed = errors > accepted
    if not bool(missed.any()):
        return
    warnings.warn(
        f"single credits of {int(missed.sum())} of {len(errors)} targets may be wrong by up to "
        f"{errors[missed].max().item():.2g} (column 'credit_error' of `to_frame(tidy=True)`) with "
        f"the {estimator.name} estimator and {estimator.n_steps} steps; raise n_steps, or load the "
        "model in float64",
        CompletenessWarning,
        stacklevel=6,
    )
