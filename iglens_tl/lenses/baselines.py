"""Where the path through the hidden states begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

BASELINES = {
    "mean": "mean of the lowest state over all positions of the text, later ones included",
    "mean_causal": "mean of the lowest state over the positions up to the one that is read",
    "zero": "the zero vector",
    "embed": "the lowest state itself, so that the embedding gets no credit",
}
"""The named baselines. Only the first segment depends on the choice."""

if TYPE_CHECKING:
    BaselineLike: TypeAlias = str | Tensor | np.ndarray | list[float]
else:  # anything may arrive here; `resolve_baseline` answers with a readable error
    BaselineLike = Any


@dataclass(frozen=True)
class Baseline:
    """A resolved baseline: one of the names, or "vector" with its vector."""

    name: str
    vector: Float[Tensor, " d_model"] | None = None

    def of_text(
        self, states: Float[Tensor, "pos d_model"], positions: list[int]
    ) -> Float[Tensor, "baseline d_model"]:
        """Return one baseline state for a text, or one for each read position.

        Args:
            states: The lowest state at every position of the text.
            positions: The read positions.
        """
        if self.vector is not None:
            return self.vector[None].to(states)
        if self.name == "zero":
            return torch.zeros_like(states[:1])
        if self.name == "mean":
            return states.mean(0, keepdim=True)
        if self.name == "mean_causal":
            counts = torch.arange(1, len(states) + 1, device=states.device)
            return (states.cumsum(0) / counts[:, None])[positions]
        return states[positions]


def resolve_baseline(baseline: BaselineLike, *, d_model: int) -> Baseline:
    """Check a baseline's name or vector.

    Raises:
        TypeError: For anything else.
        ValueError: For an unknown name, or a vector of another width or with NaN or infinity.
    """
    if isinstance(baseline, str):
        if baseline not in BASELINES:
            raise ValueError(
                f"unknown baseline {baseline!r}; choose one of {', '.join(BASELINES)}, or give a "
                f"vector of width {d_model}"
            )
        return Baseline(baseline)
    if not isinstance(baseline, (Tensor, np.ndarray, list, tuple)):
        raise TypeError(f"baseline must be a name or a vector, got {type(baseline).__name__}")
    vector = torch.as_tensor(baseline).detach()
    if vector.shape != (d_model,):
        raise ValueError(
            f"the baseline vector has shape {tuple(vector.shape)}, expected ({d_model},)"
        )
    if not torch.isfinite(vector).all():
        raise ValueError("the baseline vector has entries that are NaN or infinite")
    return Baseline("vector", vector)
