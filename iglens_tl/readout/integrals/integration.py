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

from iglens_tl.readout.integrals.chords import ChordRows, Nodes
from iglens_tl.readout.integrals.errors import ChordErrors, Ends, IntervalErrors
from iglens_tl.readout.integrals.slopes import Slopes, blocks_of, slopes_at, values_at_ends
from iglens_tl.readout.tiles import tile_columns
from iglens_tl.readout.value import Value

_SMALLEST_ENTRY = 1e-25
_SMALLEST_UNIT = 1e-300
_LARGEST_GROWTH = 1e6
_ROUNDING = 8
_PARTS_BESIDE_CHANGE = 4


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
        errors: `[chord]`, an estimate of the length of the error of `gradients`, float64: times the
            length of any part of a displacement it bounds the error of the part's share; see
            `integrate_adaptive`. None without gradients, or by the midpoint rule.
    """

    start: Float[Tensor, " chord"]
    end: Float[Tensor, " chord"]
    means: Float[Tensor, " chord"]
    slopes: Float[Tensor, " chord"]
    gradients: Float[Tensor, "chord d_model"] | None = None
    errors: Float[Tensor, " chord"] | None = None


@dataclass(frozen=True)
class Emphasis:
    """A weight for every place of a path, by which slopes and gradients are multiplied.

    Attributes:
        places: `[chord, 2]`, where each chord starts and ends on the path, from 0 to 1.
        weight: The weight of a place.
    """

    places: Float[Tensor, "chord 2"]
    weight: Callable[[Tensor], Tensor]

    def at(self, nodes: Nodes) -> Float[Tensor, "interval node"]:
        """Return the weights of nodes."""
        start, end = self.places.to(nodes.at)[nodes.chord, :, None].unbind(1)
        return self.weight(start + nodes.at * (end - start))


@dataclass(frozen=True)
class Intervals:
    """Parts `[low, low + width]` of chords, by the parameter of `ChordRows.places`.

    Attributes:
        chord: `[interval]`, the chord of each.
        low: `[interval]`, where it begins, float64.
        width: `[interval]`, its length, float64.
    """

    chord: Tensor
    low: Tensor
    width: Tensor

    @classmethod
    def whole(cls, like: Float[Tensor, " chord"]) -> Intervals:
        """Return whole chords, on the device of a tensor."""
        chord = torch.arange(len(like), device=like.device)
        return cls(chord, torch.zeros_like(like), torch.ones_like(like))

    def __len__(self) -> int:
        return len(self.chord)

    def select(self, index: Tensor | slice) -> Intervals:
        """Return some of the intervals."""
        return Intervals(self.chord[index], self.low[index], self.width[index])

    def halves(self) -> Intervals:
        """Return both halves of every interval."""
        width = self.width.repeat_interleave(2) / 2
        low = self.low.repeat_interleave(2)
        low[1::2] += width[1::2]
        return Intervals(self.chord.repeat_interleave(2), low, width)

    def inside(self, unit: Tensor) -> Float[Tensor, "interval node"]:
        """Return the parameters of places that are given for the unit interval."""
        return self.low[:, None] + self.width[:, None] * unit


class Integration:
    """Running integrals over a few chords.

    Attributes:
        ends: What is known of the whole chords' ends.
    """

    def __init__(
        self, rows: ChordRows, value: Value, gradients: bool, emphasis: Emphasis | None
    ) -> None:
        self.rows, self.value, self.emphasis = rows, value, emphasis
        zeros = torch.zeros(len(rows.chords), dtype=torch.float64, device=rows.rows.device)
        self.slopes, self.means, self.units = (zeros.clone() for _ in range(3))
        self.radial = torch.stack([zeros, zeros], dim=1)
        self.total = None
        if gradients:
            self.total = rows.rows.new_zeros(len(zeros), rows.readout.d_vocab)
        is_controlled = gradients and len(rows.probe_rows) > 0
        self.errors = ChordErrors(zeros) if is_controlled else None
        self.ends = self._whole_ends()
        # What bisection cannot make smaller, and must not spend its intervals on.
        self.rounding = (
            _ROUNDING * torch.finfo(rows.rows.dtype).eps * self.ends.values.abs().amax(1)
        )

    def add_evenly(self, unit: Tensor, weights: Tensor) -> None:
        """Add whole chords by a rule in α itself.

        Args:
            unit: `[node]`, the places.
            weights: `[node]`, their weights.
        """
        chord = torch.arange(len(self.rows.chords), device=unit.device)
        for block in blocks_of(self.rows, len(chord), len(unit)):
            nodes = self.rows.nodes(chord[block], unit.expand(len(chord[block]), -1))
            found = slopes_at(self.rows, self.value, nodes)
            self._add(nodes, weights.expand_as(nodes.at), found)

    def add_accepted(
        self,
        intervals: Intervals,
        unit: Tensor,
        weights: Tensor,
        ends: Ends,
        limits: Tensor,
        must: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Add the intervals whose error is accepted.

        Args:
            intervals: The intervals.
            unit: `[node]`, the nodes of a Gauss–Legendre rule in [0, 1].
            weights: `[node]`, their weights.
            ends: What is known of the intervals' ends.
            limits: `[interval]`, the accepted error.
            must: `[interval]`, whether it is added whatever its error; None for none of them.

        Returns:
            The numbers of the intervals that are left, and whether twice the nodes should do for
            them.
        """
        added = torch.zeros_like(limits, dtype=torch.bool) if must is None else must.clone()
        is_near = torch.zeros_like(added)
        for block in blocks_of(self.rows, len(intervals), len(unit)):
            part, part_ends = intervals.select(block), ends.select(block)
            nodes, speed = self._places(part, unit)
            found = slopes_at(self.rows, self.value, nodes)
            measure = speed * weights
            missing = (measure * found.slopes).sum(1) - part_ends.change
            limit = torch.maximum(limits[block], self.rounding[part.chord])
            # Written so that NaN counts as missed while intervals are left, never for ever.
            if self.errors is None:
                added[block] |= missing.abs() <= limit
            else:
                own = IntervalErrors.of(
                    self.rows, self.value, nodes, found, part_ends, measure, speed
                )
                # What bounds all parts may be several times the error of any.
                of_parts = _PARTS_BESIDE_CHANGE * limit
                unseen = torch.where(own.unseen > of_parts, own.unseen, 0.0)
                added[block] |= (missing.abs() <= torch.maximum(limit, own.floor)) & (
                    own.seen + unseen <= of_parts
                )
                # Twice the nodes square what is left of a series that falls geometrically.
                is_near[block] = own.seen**2 + unseen * own.moved <= of_parts * own.moved
                self.errors.add(part.chord, own, unseen, missing, added[block])
            self._add(nodes, measure * added[block, None], found)
        left = (~added).nonzero().squeeze(-1)
        return left, is_near[left]

    def ends_of(self, intervals: Intervals) -> Ends:
        """Evaluate the value at the ends of intervals."""
        unit = intervals.low.new_tensor([0.0, 1.0])
        found = []
        for block in blocks_of(self.rows, len(intervals), 2):
            nodes, _ = self._places(intervals.select(block), unit)
            found.append(Ends.of(nodes, slopes_at(self.rows, self.value, nodes)))
        return Ends.concatenated(found)

    def result(self) -> ChordIntegrals:
        """Return the integrals."""
        start, end = self.ends.values.unbind(1)
        errors = None if self.errors is None else self.errors.total() / self.rows.lengths
        return ChordIntegrals(
            start.cpu(),
            end.cpu(),
            self.means.cpu(),
            self.slopes.cpu(),
            self._gradients(),
            None if errors is None else errors.cpu(),
        )

    def _places(self, intervals: Intervals, unit: Tensor) -> tuple[Nodes, Tensor]:
        """Return places within intervals, and how fast α changes from one end to the other."""
        at, speed = self.rows.places(intervals.chord, intervals.inside(unit))
        return self.rows.nodes(intervals.chord, at), intervals.width[:, None] * speed

    def _add(self, nodes: Nodes, weights: Tensor, found: Slopes) -> None:
        self.means.index_add_(0, nodes.chord, (weights * found.values).sum(1))
        if self.emphasis is not None:
            weights = weights * self.emphasis.at(nodes)
        self.slopes.index_add_(0, nodes.chord, (weights * found.slopes).sum(1))
        if self.total is not None:
            self._add_gradients(self.total, nodes, weights, found)

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
        weights = (self.radial / readout.d_model).to(product)
        radial = weights[:, :1] * chords.states[chords.start]
        radial = radial + weights[:, 1:] * chords.states[chords.end]
        return product - readout.norm.center(radial)

    def _add_gradients(self, total: Tensor, nodes: Nodes, measure: Tensor, found: Slopes) -> None:
        scale = nodes.inverse_norm
        measure = measure * self.rows.readout.transform.scale
        weights = measure * scale
        largest = weights.amax(1)
        self._raise_units(total, nodes.chord, largest * found.rows.sizes)
        units = self.units[nodes.chord, None]
        weights = torch.where(units > 0, weights / units.clamp_min(_SMALLEST_UNIT), 0)
        found.rows.add_to(total, nodes.chord, weights)
        radial = measure * scale**3 * (nodes.ends * found.end_products).sum(2)
        self.radial.index_add_(0, nodes.chord, (radial[:, :, None] * nodes.ends).sum(1))

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

    def _whole_ends(self) -> Ends:
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
        found = values_at_ends(rows, self.value, first % n_chords, first >= n_chords)
        values, maxima = found[:, places].view(2, 2, n_chords).transpose(1, 2)
        at = torch.stack([torch.zeros_like(values[:, 0]), torch.ones_like(values[:, 0])], dim=1)
        return Ends(at, values, maxima, values.new_full((n_chords, 2, 2), torch.nan))


def _first_of_each(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return where each distinct row stands, and for every row which of those equals it."""
    distinct, places = torch.unique(rows, dim=0, return_inverse=True)
    first = torch.empty(len(distinct), dtype=torch.long, device=rows.device)
    first[places] = torch.arange(len(rows), device=rows.device)
    return first, places
