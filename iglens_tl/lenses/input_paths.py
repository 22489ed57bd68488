"""Straight lines of whole texts' states, and values at their end, for backward passes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from iglens_tl.lenses.estimators import CompletenessWarning
from iglens_tl.prompts import Request
from iglens_tl.readout import Readout, Targets, Value

TOKENS_PER_PASS = 1024
"""The number of tokens that run together with their graph; longer paths run in parts."""

if TYPE_CHECKING:
    Positions: TypeAlias = Literal["read", "all"]
else:  # anything may arrive here; it is answered with a readable error
    Positions = Any

POSITIONS = {
    "read": "the position from which the target is read",
    "all": "all positions of the text",
}
"""Over which positions a layer's values are summed."""

STEPS_ADVICE = "; 50 is a good start"

_ACCEPTED_ERROR = 0.1
_SMALLEST_CHANGE = 1e-2


def parts_of_path(
    start: Float[Tensor, "pos d_model"],
    end: Float[Tensor, "pos d_model"],
    nodes: Float[Tensor, " node"],
) -> Iterator[tuple[slice, Float[Tensor, "part pos d_model"]]]:
    """Yield the states of as many nodes of a straight line as run together, with which they are."""
    size = max(1, TOKENS_PER_PASS // len(end))
    for first in range(0, len(nodes), size):
        part = slice(first, min(first + size, len(nodes)))
        at = nodes[part, None, None].to(end)
        # Not start + at · (end − start), which would miss the end by a rounding error.
        yield part, start * (1 - at) + end * at


def value_at(
    readout: Readout,
    value: Value,
    states: Float[Tensor, "row d_model"],
    token_id: int,
    final: Float[Tensor, " d_model"],
) -> Float[Tensor, " row"]:
    """Return a target's value for last residual states, differentiable in them.

    Args:
        readout: The model's readout.
        value: The value.
        states: Last residual states at the read position.
        token_id: The target.
        final: The state there from which the model itself predicts.
    """
    logits = readout.logits(states)
    if logits.requires_grad:
        logits.register_hook(_without_denormals)
    tokens = torch.full((len(logits),), token_id, device=logits.device)
    of_model = readout.logits(final).expand_as(logits) if value.needs_final else None
    return value.evaluate(logits, Targets(tokens, of_model))


def targets_of(request: Request) -> Iterator[tuple[int, int, int]]:
    """Yield the number, read position and token of each target."""
    pairs = zip(request.positions, request.target_ids, strict=True)
    yield from ((number, *pair) for number, pair in enumerate(pairs))


def read_positions_only(
    by_position: Float[Tensor, "target segment pos"], request: Request
) -> Float[Tensor, "target segment"]:
    """Return what stands at each target's own read position."""
    places = torch.tensor(request.positions)[:, None, None]
    return by_position.gather(2, places.expand(-1, by_position.shape[1], 1))[:, :, 0]


def completeness_note(
    lens: str, errors: Float[Tensor, "target segment"], change: Float[Tensor, "target segment"]
) -> str:
    """Describe by how much sums over all positions miss the change along the path.

    Warns:
        CompletenessWarning: If one misses a tenth of the change.
    """
    worst = float(errors.abs().max())
    missed = errors.abs() > _ACCEPTED_ERROR * change.abs().clamp_min(_SMALLEST_CHANGE)
    if bool((missed | ~torch.isfinite(errors)).any()):
        warnings.warn(
            f"{lens}: sums over all positions miss the change of the value along the path by up to "
            f"{worst:.2g}. Raise n_steps, or use the mean baseline: a norm makes a model jump at "
            "the zero vector, which no number of equal steps resolves. Experts that switch along "
            "the path are jumps too",
            CompletenessWarning,
            stacklevel=2,
        )
    return f"sums over all positions miss the change along the path by up to {worst:.1e}"


def _without_denormals(gradient: Tensor) -> Tensor:
    # On a CPU they make single backward products thirty times slower.
    return gradient.masked_fill(gradient.abs() < torch.finfo(gradient.dtype).tiny, 0)
