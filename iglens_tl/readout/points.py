"""Points: the states that are read out, and what is known of them afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Point:
    """States of one kind, one row for each read position or one shared by several.

    Attributes:
        key: The point's name in the answer.
        states: `[row, d_model]` residual states.
        target_rows: `[target]`, the row at which each target is read.
        scale: `[row]`, factors to use in place of the final norm's own `s(h)`; None for its own.
        ranked: Whether ranks, most probable tokens and statistics are wanted.
    """

    key: str
    states: Float[Tensor, "row d_model"]
    target_rows: Int[Tensor, " target"]
    scale: Float[Tensor, " row"] | None = None
    ranked: bool = True

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.states)


@dataclass(frozen=True)
class Reading:
    """What a sweep keeps of one point, for every target and in float64 on the CPU.

    Attributes:
        point: What was read.
        target_logits: `[target]`, the logits of the targets.
        log_normalizers: `[target]`, logsumexp of the logits.
        ranks: `[target]`, 1 for the most probable token; None if not asked for.
        top_ids: `[target, top]`, the most probable tokens, best first; None if not asked for.
        top_probs: `[target, top]`, their probabilities; None if not asked for.
        entropies: `[target]`, entropy in nats; None if not asked for.
        divergences: `[target]`, KL(reference ‖ this point) in nats; None if not asked for.
    """

    point: Point
    target_logits: Float[Tensor, " target"]
    log_normalizers: Float[Tensor, " target"]
    ranks: Int[Tensor, " target"] | None = None
    top_ids: Int[Tensor, "target top"] | None = None
    top_probs: Float[Tensor, "target top"] | None = None
    entropies: Float[Tensor, " target"] | None = None
    divergences: Float[Tensor, " target"] | None = None


def stack(readings: Sequence[Reading], name: str) -> Tensor | None:
    """Return one field of several readings as `[target, point, …]`, or None where it is missing."""
    fields = [getattr(reading, name) for reading in readings]
    return None if any(field is None for field in fields) else torch.stack(fields, dim=1)
