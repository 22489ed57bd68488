"""Measure how far two computations of the same logits are apart, and say when that is too far.

Probabilities alone say nothing where all of them are small, as in an untrained model or with a
large vocabulary, and logits alone have no scale. So both are compared: probabilities as they are,
and logits without their mean, which no probability depends on, relative to their spread.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_POSITIONS_AT_ONCE = 64
_MASKED = 1e30


@dataclass(frozen=True)
class Distance:
    """How far two computations of the same logits are apart.

    Attributes:
        probability: Largest difference between two probabilities of a token.
        logit: Largest difference between two logits, without their means over the vocabulary,
            relative to the spread (root mean square) of those expected.
        mean_logit: Root mean square of these differences, relative to the same spread.
    """

    probability: float
    logit: float
    mean_logit: float


@dataclass(frozen=True)
class Tolerance:
    """Largest accepted distances; None where a measure does not decide."""

    probability: float
    logit: float | None
    mean_logit: float | None

    def accepts(self, distance: Distance) -> bool:
        """Return whether no measure exceeds its bound; NaN does."""
        return all(
            bound is None or getattr(distance, measure) <= bound
            for measure, bound in vars(self).items()
        )

    def __str__(self) -> str:
        bounds = [f"{self.probability:g} in probability"]
        if self.logit is not None:
            bounds.append(f"{self.logit:g} of the logits' spread")
        if self.mean_logit is not None:
            bounds.append(f"{self.mean_logit:g} of the logits' spread in the mean")
        return " and ".join(bounds)


def is_half(dtype: torch.dtype) -> bool:
    """Return whether a precision rounds so much that only mean differences tell something."""
    return dtype in (torch.float16, torch.bfloat16)


def logit_distance(
    expected: Float[Tensor, "pos d_vocab"], found: Float[Tensor, "pos d_vocab"]
) -> Distance:
    """Measure how far logits are from what they should be.

    Tokens that a model masks, with logits of ±1e30 or beyond in both, are left out of the
    comparison of logits. NaN gives NaN.
    """
    largest = torch.zeros(2, dtype=torch.float64)
    squares = torch.zeros(2, dtype=torch.float64)
    for own, other in zip(
        expected.split(_POSITIONS_AT_ONCE), found.split(_POSITIONS_AT_ONCE), strict=True
    ):
        own, other = own.double(), other.to(own.device).double()
        probability = (own.softmax(-1) - other.softmax(-1)).abs().max()
        masked = (own.abs() >= _MASKED) & (other.abs() >= _MASKED)
        n_tokens = (~masked).sum(-1, keepdim=True).clamp_min(1)
        own, other = own.masked_fill(masked, 0), other.masked_fill(masked, 0)
        own = (own - own.sum(-1, keepdim=True) / n_tokens).masked_fill(masked, 0)
        other = (other - other.sum(-1, keepdim=True) / n_tokens).masked_fill(masked, 0)
        difference = own - other
        # torch.maximum and not max(), so that NaN stays NaN.
        largest = torch.maximum(largest, torch.stack([probability, difference.abs().max()]).cpu())
        squares += torch.stack([difference.square().sum(), own.square().sum()]).cpu()
    size = max(1, expected.numel())
    spread = (squares[1] / size).sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    return Distance(
        probability=largest[0].item(),
        logit=(largest[1] / spread).item(),
        mean_logit=((squares[0] / size).sqrt() / spread).item(),
    )
