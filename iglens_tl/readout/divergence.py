"""Entropies and divergences, collected tile by tile."""

from __future__ import annotations

import torch
from torch import Tensor


class DivergenceSums:
    """Running sums for the entropy of every row and its divergence from a reference row.

    The rows are several points of equal length, one after the other; row i of each is compared with
    row i of the reference point. With u = z − max z and weights e^u, both numbers need only sums of
    weights times u, so that nothing of the size of the vocabulary is kept:
    entropy = log Σ e^u − Σ e^u u / Σ e^u, and KL(r ‖ i) = Σ p_r log p_r − Σ p_r log p_i.
    """

    def __init__(self, n_rows: int, n_points: int, reference: int, like: Tensor) -> None:
        self.shape = (n_points, n_rows // n_points)
        self.reference = reference
        self.own = like.new_zeros(n_rows, dtype=torch.float64)
        self.cross = like.new_zeros(self.shape, dtype=torch.float64)

    def rescale(self, total: Tensor, decay: Tensor, rise: Tensor) -> None:
        """Move the sums to new maxima.

        Args:
            total: `[row]` Σ e^u so far, for the old maxima.
            decay: `[row]` e^(old − new maximum).
            rise: `[row]` new − old maximum, 0 before the first tile.
        """
        self.own = decay * (self.own - rise * total)
        of_reference = total.view(self.shape)[self.reference]
        self.cross -= rise.view(self.shape) * of_reference
        self.cross *= decay.view(self.shape)[self.reference]

    def add(self, shifted: Tensor, weights: Tensor) -> None:
        """Add a tile: `[row, column]` u and e^u."""
        self.own += torch.linalg.vecdot(weights, shifted).double()
        by_point = shifted.view(*self.shape, -1)
        of_reference = weights.view(*self.shape, -1)[self.reference]
        self.cross += torch.einsum("pc,npc->np", of_reference, by_point).double()

    def finish(self, total: Tensor) -> tuple[Tensor, Tensor]:
        """Return the entropies and divergences `[row]`, given all of Σ e^u."""
        entropies = total.log() - self.own / total
        totals = total.view(self.shape)
        crossed = self.cross / totals[self.reference] - totals.log()
        divergences = crossed[self.reference] - crossed
        # Rounding may leave a hair below zero, which no divergence is.
        return entropies.clamp_min(0), divergences.clamp_min(0).reshape(-1)
