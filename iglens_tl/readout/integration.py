"""Running integrals over a few chords, whose vocabulary rows are in memory.

With q the gradient of the value with respect to the raw readout R, the gradient with respect to the
state h is κ s C(γ ⊙ W_U q) − κ (s³/d)(q·R) C h. It is linear in q apart from two scalars, so that
its integral over a chord takes one product with W_U, whatever the number of nodes. The product of
that integral with any part c of the chord's displacement is the part's exact share of the change
(the integrated gradients of Sundararajan et al. 2017, arXiv 1703.01365, at the hidden states).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from iglens_tl.readout.chords import ChordRows, Nodes
from iglens_tl.readout.slopes import Slopes, blocks_of, slopes_at, values_at_ends
from iglens_tl.readout.tiles import tile_columns
from iglens_tl.readout.value import Value

_SMALLEST_ENTRY = 1e-25
_SMALLEST_UNIT = 1e-300
_LARGEST_GROWTH = 1e6
_ROUNDING = 8


@dataclass(frozen=True)
class ChordIntegrals:
    """What is known of each chord.

    Attributes:
        start: `[chord]`, the value at α = 0, float64.
        end: `[chord]`, the value at α = 1, float64.
        means: `[chord]`, the integral of the value over α, float64.
        slopes: `[chord]`, the integral of the slope, float64; ideally `end − start`.
        gradients: `[chord, d_model]`, the integral of the gradient over α, in the readout's
            precision; its product with `b − a` is the integral of the slope. None if not asked for.
    """

    start: Float[Tensor, " chord"]
    end: Float[Tensor, " chord"]
    means: Float[Tensor, " chord"]
    slopes: Float[Tensor, " chord"]
    gradients: Float[Tensor, "chord d_model"] | None = None


@dataclass(frozen=True)
class Emphasis:
    """A weight for every place of a path, by which slopes and gradients are multiplied.

    Attributes:
        places: `[chord, 2]`, where each chord starts and ends on the path, from 0 to 1.
        weight: The weight of a place.
    """

    places: Float[Tensor, "chord 2"]
    weight: Callable[[Tensor], Tensor]

    def at(self, nodes: Nodes) -> Float[Tensor, "piece node"]:
        """Return the weights of nodes."""
        start, end = self.places[nodes.chord, :, None].unbind(1)
        return self.weight(start + nodes.at * (end - start))


@dataclass(frozen=True)
class Pieces:
    """Parts `[low, low + width]` of chords.

    Attributes:
        chord: `[piece]`, the chord of each.
        low: `[piece]`, where it begins, float64.
        width: `[piece]`, its length, float64.
    """

    chord: Tensor
    low: Tensor
    width: Tensor

    @classmethod
    def whole(cls, n_chords: int) -> Pieces:
        """Return whole chords."""
        low = torch.zeros(n_chords, dtype=torch.float64)
        return cls(torch.arange(n_chords), low, low + 1)

    def __len__(self) -> int:
        return len(self.chord)

    def select(self, index: Tensor | slice) -> Pieces:
        """Return some of the pieces."""
        return Pieces(self.chord[index], self.low[index], self.width[index])

    def halves(self) -> Pieces:
        """Return both halves of every piece."""
        width = self.width.repeat_interleave(2) / 2
        low = self.low.repeat_interleave(2)
        low[1::2] += width[1::2]
        return Pieces(self.chord.repeat_interleave(2), low, width)

    def nodes(self, unit: Tensor) -> Nodes:
        """Return the places of a rule's nodes, given for the unit interval."""
        return Nodes(self.chord, self.low[:, None] + self.width[:, None] * unit)


class Integration:
    """Running integrals over a few chords.

    Attributes:
        start: `[chord]`, the value at α = 0.
        end: `[chord]`, the value at α = 1.
    """

    def __init__(
        self, rows: ChordRows, value: Value, gradients: bool, emphasis: Emphasis | None
    ) -> None:
        self.rows, self.value, self.emphasis = rows, value, emphasis
        n_chords = len(rows.chords)
        self.slopes = torch.zeros(n_chords, dtype=torch.float64)
        self.means = torch.zeros(n_chords, dtype=torch.float64)
        self.total = rows.rows.new_zeros(n_chords, rows.readout.d_vocab) if gradients else None
        device = rows.rows.device
        self.units = torch.zeros(n_chords, dtype=torch.float64, device=device)
        self.pulls = torch.zeros(n_chords, 2, dtype=torch.float64, device=device)
        self.start, self.end = self._ends()
        # What bisection cannot make smaller, and must not spend its pieces on.
        size = torch.maximum(self.start.abs(), self.end.abs())
        self.rounding = _ROUNDING * torch.finfo(rows.rows.dtype).eps * size

    def add(
        self,
        pieces: Pieces,
        unit: Tensor,
        weights: Tensor,
        change: Tensor | None = None,
        tolerance: float | Tensor = torch.inf,
    ) -> Tensor:
        """Add the pieces whose error is accepted; return the numbers of the others.

        Args:
            pieces: The pieces.
            unit: `[node]`, the rule's nodes in [0, 1].
            weights: `[node]`, their weights.
            change: `[piece]`, the change of the value over each; None accepts all.
            tolerance: The accepted error, one for all or `[piece]`.
        """
        missed = torch.zeros(len(pieces), dtype=torch.bool)
        limits = torch.as_tensor(tolerance, dtype=torch.float64).expand(len(pieces))
        for block in blocks_of(self.rows, pieces.nodes(unit)):
            part = pieces.select(block)
            nodes = _on_device(part.nodes(unit), self.rows)
            found = slopes_at(self.rows, self.value, nodes)
            measure = (part.width[:, None] * weights).to(found.slopes.device)
            if change is not None:
                error = (measure * found.slopes).sum(1).cpu() - change[block]
                accepted = torch.maximum(limits[block], self.rounding[part.chord])
                # Written so that NaN counts as missed while pieces are left, never for ever.
                missed[block] = ~(error.abs() <= accepted) & limits[block].isfinite()
                measure = measure * (~missed[block, None]).to(measure)
            self.means.index_add_(0, part.chord, (measure * found.values).sum(1).cpu())
            if self.emphasis is not None:
                measure = measure * self.emphasis.at(part.nodes(unit)).to(measure)
            self.slopes.index_add_(0, part.chord, (measure * found.slopes).sum(1).cpu())
            if self.total is not None:
                self._add_gradients(self.total, nodes, measure, found)
        return missed.nonzero().squeeze(-1)

    def change_over(self, pieces: Pieces) -> Tensor:
        """Return the change of the value over pieces."""
        ends = pieces.nodes(pieces.low.new_tensor([0.0, 1.0]))
        values = torch.cat(
            [
                slopes_at(self.rows, self.value, _on_device(ends.select(block), self.rows)).values
                for block in blocks_of(self.rows, ends)
            ]
        )
        return (values[:, 1] - values[:, 0]).cpu()

    def result(self) -> ChordIntegrals:
        """Return the integrals."""
        return ChordIntegrals(self.start, self.end, self.means, self.slopes, self._gradients())

    def _gradients(self) -> Tensor | None:
        if self.total is None:
            return None
        readout, chords = self.rows.readout, self.rows.chords
        product = self.total.new_zeros(len(self.total), readout.d_model)
        width = tile_columns(readout, len(self.total))
        for first in range(0, readout.d_vocab, width):
            tile = readout.unembed_columns(first, first + width)
            total = F.hardshrink(self.total[:, first : first + width], _SMALLEST_ENTRY)
            product.addmm_(total, tile.T)
        product.mul_(self.units[:, None])
        if readout.norm is None:
            return product
        weight = readout.norm.weight
        product = readout.norm.center(product if weight is None else product * weight)
        pulls = (self.pulls / readout.d_model).to(product)
        radial = pulls[:, :1] * chords.states[chords.start]
        radial = radial + pulls[:, 1:] * chords.states[chords.end]
        return product - readout.norm.center(radial)

    def _add_gradients(self, total: Tensor, nodes: Nodes, measure: Tensor, found: Slopes) -> None:
        scale = self.rows.inverse_norm(nodes)[0]
        measure = measure * self.rows.readout.transform.scale
        weights = measure * scale
        largest = weights.amax(1)
        sizes = torch.where(found.rows.sizes > 0, largest * found.rows.sizes, largest)
        self._raise_units(total, nodes.chord, sizes)
        # A unit is 0 only where all weights are.
        weights = weights / self.units[nodes.chord, None].clamp_min(_SMALLEST_UNIT)
        found.rows.add_to(total, nodes.chord, weights)
        ends = torch.stack([1 - nodes.at, nodes.at], dim=2)
        radial = (measure * scale**3 * (ends * found.pulls).sum(2))[:, :, None] * ends
        self.pulls.index_add_(0, nodes.chord, radial.sum(1))

    def _raise_units(self, total: Tensor, chord: Tensor, sizes: Tensor) -> None:
        """Keep each chord's total in a unit of its own, so that it neither vanishes nor overflows.

        Along a chord, gradients may grow from 1e-60 to 1.
        """
        largest = self.units.scatter_reduce(0, chord, sizes, "amax")
        grown = largest > _LARGEST_GROWTH * self.units
        begun = (grown & (self.units > 0)).nonzero().squeeze(-1)
        if len(begun):
            total[begun] *= (self.units[begun] / largest[begun])[:, None].to(total)
        self.units = torch.where(grown, largest, self.units)

    def _ends(self) -> tuple[Tensor, Tensor]:
        """Evaluate the value once for every state at which a chord of its target ends."""
        rows, chords = self.rows, self.rows.chords
        pairs = torch.cat(
            [
                torch.stack([states, chords.tokens, chords.final], dim=1)
                for states in (chords.start, chords.end)
            ]
        )
        first, places = _first_of_each(pairs)
        n_chords = len(chords)
        values = values_at_ends(rows, self.value, first % n_chords, first >= n_chords).cpu()
        places = places.cpu()
        return values[places[:n_chords]], values[places[n_chords:]]


def _on_device(nodes: Nodes, rows: ChordRows) -> Nodes:
    device = rows.rows.device
    return Nodes(nodes.chord.to(device), nodes.at.to(device))


def _first_of_each(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return where each distinct row stands, and for every row which of those equals it."""
    distinct, places = torch.unique(rows, dim=0, return_inverse=True)
    first = torch.empty(len(distinct), dtype=torch.long, device=rows.device)
    first[places] = torch.arange(len(rows), device=rows.device)
    return first, places
