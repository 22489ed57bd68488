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
from iglens_tl.readout.errors import change_unseen, error_seen
from iglens_tl.readout.slopes import Slopes, blocks_of, slopes_at, values_at_ends
from iglens_tl.readout.tiles import tile_columns
from iglens_tl.readout.value import Value

_SMALLEST_ENTRY = 1e-25
_SMALLEST_UNIT = 1e-300
_LARGEST_GROWTH = 1e6
_ROUNDING = 8
_PARTS_BESIDE_CHANGE = 4
_PROBABLE = 1 / 16
_SAFETY = 4
"""By how much what is reported exceeds the estimate of the rule's error."""


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


@dataclass(frozen=True)
class Ends:
    """What is known of the two ends of pieces.

    Attributes:
        values: `[piece, 2]`, the value.
        ceilings: `[piece, 2]`, see `Slopes`.
        ceiling_slopes: `[piece, 2, 2]`, see `Slopes`; NaN where unknown.
    """

    values: Tensor
    ceilings: Tensor
    ceiling_slopes: Tensor

    @property
    def change(self) -> Tensor:
        """The change of the value over each piece."""
        return self.values[:, 1] - self.values[:, 0]

    def select(self, index: Tensor | slice) -> Ends:
        """Return those of some of the pieces."""
        return Ends(self.values[index], self.ceilings[index], self.ceiling_slopes[index])


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
        is_controlled = gradients and len(rows.probe_rows) > 0
        self.errors = _ChordErrors(n_chords) if is_controlled else None
        self.ends = self._whole_ends()
        self.start, self.end = self.ends.values.unbind(1)
        # What bisection cannot make smaller, and must not spend its pieces on.
        size = torch.maximum(self.start.abs(), self.end.abs())
        self.rounding = _ROUNDING * torch.finfo(rows.rows.dtype).eps * size

    def add(self, pieces: Pieces, unit: Tensor, weights: Tensor) -> None:
        """Add pieces.

        Args:
            pieces: The pieces.
            unit: `[node]`, the rule's nodes in [0, 1].
            weights: `[node]`, their weights.
        """
        for block in blocks_of(self.rows, pieces.nodes(unit)):
            part = pieces.select(block)
            nodes = _on_device(part.nodes(unit), self.rows)
            found = slopes_at(self.rows, self.value, nodes)
            self._add(part, nodes, part.width[:, None] * weights, found)

    def add_accepted(
        self,
        pieces: Pieces,
        unit: Tensor,
        weights: Tensor,
        ends: Ends,
        limits: Tensor,
        must: Tensor | None = None,
    ) -> Tensor:
        """Add the pieces whose error is accepted; return the numbers of the others.

        Args:
            pieces: The pieces.
            unit: `[node]`, the nodes of a Gauss–Legendre rule in [0, 1].
            weights: `[node]`, their weights.
            ends: What is known of the pieces' ends.
            limits: `[piece]`, the accepted error.
            must: `[piece]`, whether a piece is added whatever its error; None for none of them.
        """
        must = torch.zeros(len(pieces), dtype=torch.bool) if must is None else must
        missed = torch.zeros(len(pieces), dtype=torch.bool)
        for block in blocks_of(self.rows, pieces.nodes(unit)):
            part, part_ends = pieces.select(block), ends.select(block)
            nodes = _on_device(part.nodes(unit), self.rows)
            found = slopes_at(self.rows, self.value, nodes)
            measure = part.width[:, None] * weights
            missing = (measure * found.slopes.cpu()).sum(1) - part_ends.change
            limit = torch.maximum(limits[block], self.rounding[part.chord])
            # Written so that NaN counts as missed while pieces are left, never for ever.
            accepted = missing.abs() <= limit
            if self.errors is not None:
                own = _PieceErrors(self.rows, self.value, part, nodes, part_ends, found, measure)
                # What bounds all parts may be several times the error of any.
                of_parts = _PARTS_BESIDE_CHANGE * limit
                unseen = torch.where(own.unseen > of_parts, own.unseen, 0.0)
                accepted = missing.abs() <= torch.maximum(limit, own.floor)
                accepted &= own.seen + unseen <= of_parts
                added = accepted | must[block]
                self.errors.add(part.chord, own, unseen, missing, added)
            missed[block] = ~(accepted | must[block])
            self._add(part, nodes, measure * (~missed[block, None]), found)
        return missed.nonzero().squeeze(-1)

    def ends_of(self, pieces: Pieces) -> Ends:
        """Evaluate the value at the ends of pieces."""
        ends = pieces.nodes(pieces.low.new_tensor([0.0, 1.0]))
        found = [
            slopes_at(self.rows, self.value, _on_device(ends.select(block), self.rows))
            for block in blocks_of(self.rows, ends)
        ]
        return Ends(
            torch.cat([part.values for part in found]).cpu(),
            torch.cat([part.ceilings for part in found]).cpu(),
            torch.cat([part.ceiling_slopes for part in found]).cpu(),
        )

    def result(self) -> ChordIntegrals:
        """Return the integrals."""
        errors = None if self.errors is None else self.errors.total() / self.rows.lengths.cpu()
        return ChordIntegrals(
            self.start, self.end, self.means, self.slopes, self._gradients(), errors
        )

    def _add(self, part: Pieces, nodes: Nodes, measure: Tensor, found: Slopes) -> None:
        measure = measure.to(found.slopes.device)
        self.means.index_add_(0, part.chord, (measure * found.values).sum(1).cpu())
        if self.emphasis is not None:
            measure = measure * self.emphasis.at(Nodes(part.chord, nodes.at.cpu())).to(measure)
        self.slopes.index_add_(0, part.chord, (measure * found.slopes).sum(1).cpu())
        if self.total is not None:
            self._add_gradients(self.total, nodes, measure, found)

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
        self._raise_units(total, nodes.chord, largest * found.rows.sizes)
        units = self.units[nodes.chord, None]
        weights = torch.where(units > 0, weights / units.clamp_min(_SMALLEST_UNIT), 0)
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
        found = values_at_ends(rows, self.value, first % n_chords, first >= n_chords).cpu()
        values, ceilings = found[:, places.cpu()].view(2, 2, n_chords).transpose(1, 2)
        return Ends(values, ceilings, values.new_full((n_chords, 2, 2), torch.nan))


class _ChordErrors:
    """Running sums of the error of the share of a part as long as a chord's displacement."""

    def __init__(self, n_chords: int) -> None:
        self.estimated, self.missing, self.moved, self.largest = torch.zeros(
            4, n_chords, dtype=torch.float64
        )

    def add(
        self, chord: Tensor, own: _PieceErrors, unseen: Tensor, missing: Tensor, added: Tensor
    ) -> None:
        """Add some of the pieces.

        Args:
            chord: `[piece]`, the chord of each.
            own: What is estimated of each.
            unseen: `[piece]`, what counts of the change unseen.
            missing: `[piece]`, integral − change.
            added: `[piece]`, which pieces are added.
        """
        for total, of_pieces in (
            (self.estimated, _SAFETY * own.seen + unseen + own.rounding),
            (self.missing, missing),
            (self.moved, own.moved),
            (self.largest, own.largest),
        ):
            total.index_add_(0, chord, torch.where(added, of_pieces, 0.0))

    def total(self) -> Tensor:
        """Return the sums; where the change is missed by more, what that is for all directions."""
        per_change = (self.largest / self.moved).nan_to_num(1.0, posinf=1.0)
        return torch.maximum(self.estimated, self.missing.abs() * per_change)


class _PieceErrors:
    """Estimates of the error of the share of a part as long as the displacement, for pieces.

    Attributes:
        seen: `[piece]`, of the rule, from its nodes.
        unseen: `[piece]`, how much the value may change unseen between them.
        rounding: `[piece]`, of the precision.
        floor: `[piece]`, what rounding probably makes of it, below which no rule gets.
        moved: `[piece]`, the integral of the slope's size.
        largest: `[piece]`, the largest that it can be of a part.
    """

    def __init__(
        self,
        rows: ChordRows,
        value: Value,
        part: Pieces,
        nodes: Nodes,
        ends: Ends,
        found: Slopes,
        measure: Tensor,
    ) -> None:
        rounding, length = rows.rounding(nodes), rows.lengths[nodes.chord]
        self.seen = part.width * (length * error_seen(found.probes, rounding)).cpu()
        bounds = part.nodes(part.low.new_tensor([0.0, 1.0])).at.to(nodes.at)
        self.unseen = change_unseen(
            rows,
            value,
            Nodes(nodes.chord, _enclosed(bounds, nodes.at)),
            _enclosed(ends.ceilings.to(nodes.at), found.ceilings),
            _enclosed(ends.ceiling_slopes.to(nodes.at), found.ceiling_slopes),
        ).cpu()
        # On average a probe's product with a gradient is as large as the gradient.
        sizes = found.probes.square().mean(2).sqrt()
        sizes = sizes + rows.radial_sizes(nodes, found.pulls)
        summed = torch.maximum(sizes, rows.summed_sizes(nodes, found.rows.lengths))
        measure = measure.to(sizes)
        self.rounding = (length * (measure * rounding * summed).sum(1)).cpu()
        self.floor = _PROBABLE * (length * (measure * rounding * sizes).sum(1)).cpu()
        self.moved = (measure * found.slopes.abs()).sum(1).cpu()
        self.largest = (length * (measure * sizes).sum(1)).cpu()


def _enclosed(ends: Tensor, inner: Tensor) -> Tensor:
    return torch.cat([ends[:, :1], inner, ends[:, 1:]], dim=1)


def _on_device(nodes: Nodes, rows: ChordRows) -> Nodes:
    device = rows.rows.device
    return Nodes(nodes.chord.to(device), nodes.at.to(device))


def _first_of_each(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return where each distinct row stands, and for every row which of those equals it."""
    distinct, places = torch.unique(rows, dim=0, return_inverse=True)
    first = torch.empty(len(distinct), dtype=torch.long, device=rows.device)
    first[places] = torch.arange(len(rows), device=rows.device)
    return first, places
