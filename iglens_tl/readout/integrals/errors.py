"""What a quadrature of gradients may have missed, from the numbers at its own nodes.

That the integral of the slope reproduces the change of the value says nothing of the parts of the
displacement: errors of parts may cancel, and a value that rises and falls between two nodes changes
neither the slope at the nodes nor the change. Two more things are looked at.

What the nodes see: the gradient's products with a few fixed random directions are expanded in
Legendre polynomials over the interval. How fast the coefficients fall says how large those are
which the rule does not integrate. The products are as large as the gradient's length, on average,
so that their error times the length of a part bounds the error of the part's share.

What lies between the nodes: the soft maximum of the logits, their log-normaliser, is a convex
function of the two weights with which the rows A and B are mixed. Between two nodes it lies above
its two tangent planes and below the plane through its two values (a norm moves the weights off the
straight line between them, by a known factor). Where both are close together, no token can be
probable that is improbable at the nodes; where they are not, and the value would notice, the
interval is divided. The largest logit is convex as well and serves values that are no `TokenValue`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iglens_tl.readout.integrals.chords import ChordRows, Nodes
from iglens_tl.readout.integrals.slopes import Slopes, token_logits_at
from iglens_tl.readout.value import TokenValue, Value

_LARGEST_GAP = 0.5
"""In nats: by how much tangents and chord of a maximum may differ between two nodes."""

_CROSSING_STEPS = 4
_FOLLOWED = 0.8
_ROUNDING = 2
_PROBABLE = 1 / 16
SAFETY = 4
"""By how much what is reported exceeds the estimate of the rule's error."""


@dataclass(frozen=True)
class Ends:
    """What is known of the two ends of intervals.

    Attributes:
        at: `[interval, 2]`, their places α.
        values: `[interval, 2]`, the value.
        maxima: `[interval, 2]`, see `Slopes`.
        maximum_slopes: `[interval, 2, 2]`, see `Slopes`; NaN where unknown.
    """

    at: Float[Tensor, "interval 2"]
    values: Float[Tensor, "interval 2"]
    maxima: Float[Tensor, "interval 2"]
    maximum_slopes: Float[Tensor, "interval 2 2"]

    @classmethod
    def of(cls, nodes: Nodes, found: Slopes) -> Ends:
        """Return what is known of nodes that are the ends."""
        return cls(nodes.at, found.values, found.maxima, found.maximum_slopes)

    @classmethod
    def concatenated(cls, parts: Sequence[Ends]) -> Ends:
        """Return the ends of several blocks of intervals as one."""
        return cls(
            torch.cat([part.at for part in parts]),
            torch.cat([part.values for part in parts]),
            torch.cat([part.maxima for part in parts]),
            torch.cat([part.maximum_slopes for part in parts]),
        )

    @property
    def change(self) -> Float[Tensor, " interval"]:
        """The change of the value over each interval."""
        return self.values[:, 1] - self.values[:, 0]

    def select(self, index: Tensor | slice) -> Ends:
        """Return those of some of the intervals."""
        return Ends(
            self.at[index], self.values[index], self.maxima[index], self.maximum_slopes[index]
        )


@dataclass(frozen=True)
class IntervalErrors:
    """Estimates of the error of the share of a part as long as the displacement, for intervals.

    Attributes:
        seen: `[interval]`, of the rule, from its nodes.
        unseen: `[interval]`, how much the value may change unseen between them.
        rounding: `[interval]`, of the precision.
        floor: `[interval]`, what rounding probably makes of it, below which no rule gets.
        moved: `[interval]`, the integral of the slope's size.
        largest: `[interval]`, the largest that it can be of a part.
    """

    seen: Float[Tensor, " interval"]
    unseen: Float[Tensor, " interval"]
    rounding: Float[Tensor, " interval"]
    floor: Float[Tensor, " interval"]
    moved: Float[Tensor, " interval"]
    largest: Float[Tensor, " interval"]

    @classmethod
    def of(
        cls,
        rows: ChordRows,
        value: Value,
        nodes: Nodes,
        found: Slopes,
        ends: Ends,
        weights: Float[Tensor, "interval node"],
        speed: Float[Tensor, "interval node"],
    ) -> IntervalErrors:
        """Estimate the errors of a Gauss–Legendre rule.

        Args:
            rows: The chords.
            value: The value.
            nodes: The rule's nodes.
            found: What is known at them.
            ends: What is known at the ends of the intervals.
            weights: The weights of the nodes in an integral over α.
            speed: How fast α changes with the interval's parameter from 0 to 1.
        """
        rounding, length = rows.rounding(nodes), rows.lengths[nodes.chord]
        # On average a probe's product with a gradient is as large as the gradient.
        sizes = found.probes.square().mean(2).sqrt()
        sizes = sizes + rows.radial_sizes(nodes, found.end_products)
        summed = torch.maximum(sizes, rows.summed_sizes(nodes, found.rows.lengths))
        rounded = weights * rounding
        return cls(
            seen=length * error_seen(found.probes * speed[:, :, None], rounding),
            unseen=change_unseen(rows, value, nodes, found, ends),
            rounding=length * (rounded * summed).sum(1),
            floor=_PROBABLE * length * (rounded * sizes).sum(1),
            moved=(weights * found.slopes.abs()).sum(1),
            largest=length * (weights * sizes).sum(1),
        )


class ChordErrors:
    """Running sums of the error of the share of a part as long as a chord's displacement."""

    def __init__(self, like: Float[Tensor, " chord"]) -> None:
        self.estimated, self.missing, self.moved, self.largest = (
            torch.zeros_like(like) for _ in range(4)
        )

    def add(
        self,
        chord: Int[Tensor, " interval"],
        own: IntervalErrors,
        unseen: Float[Tensor, " interval"],
        missing: Float[Tensor, " interval"],
        added: Bool[Tensor, " interval"],
    ) -> None:
        """Add some of the intervals.

        Args:
            chord: The chord of each.
            own: What is estimated of each.
            unseen: What counts of the change unseen.
            missing: Integral − change.
            added: Which intervals are added.
        """
        for total, of_intervals in (
            (self.estimated, SAFETY * own.seen + unseen + own.rounding),
            (self.missing, missing),
            (self.moved, own.moved),
            (self.largest, own.largest),
        ):
            total.index_add_(0, chord, torch.where(added, of_intervals, 0.0))

    def total(self) -> Float[Tensor, " chord"]:
        """Return the sums; where the change is missed by more, what that is for all directions."""
        per_change = (self.largest / self.moved).nan_to_num(1.0, posinf=1.0)
        return torch.maximum(self.estimated, self.missing.abs() * per_change)


def error_seen(
    products: Float[Tensor, "interval node probe"], rounding: Float[Tensor, "interval node"]
) -> Float[Tensor, " interval"]:
    """Estimate the error of a Gauss–Legendre rule from the integrands at its nodes.

    Of geometrically falling coefficients c_j the rule with n nodes misses about c_2n. How fast they
    fall is the slowest rate at which the largest from any j on has fallen by the last two, over all
    integrands together: the last ones alone always fall, as P_n vanishes at the nodes, also where
    the rule resolves nothing. The rate is followed for less than the whole way to c_2n, and not
    believed beyond a digit for every two nodes.

    Args:
        products: The integrands at the nodes in order; their errors' root mean square is estimated.
        rounding: The rounding of the integrands relative to themselves, which is not counted.
    """
    n_nodes = products.shape[1]
    coefficients = torch.einsum("jn,inp->ijp", _legendre(n_nodes).to(products), products)
    energies = coefficients.square().mean(2)
    noise = (rounding.square() * products.square().mean(2)).amax(1)
    energies = (energies - _ROUNDING**2 * noise[:, None]).clamp_min(0)
    largest_from = energies.flip(1).cummax(1).values.flip(1)
    last = largest_from[:, -2]
    if n_nodes < 4:
        return last.sqrt()
    steps = torch.arange(n_nodes - 2, 1, -1).to(energies)
    rates = (last[:, None] / largest_from[:, :-3]).nan_to_num(0) ** (1 / steps)
    decay = rates.amax(1) ** (_FOLLOWED * (n_nodes + 1) / 2)
    return 2 * last.sqrt() * decay.clamp_min(10 ** (-n_nodes / 2))


def change_unseen(
    rows: ChordRows, value: Value, nodes: Nodes, found: Slopes, ends: Ends
) -> Float[Tensor, " interval"]:
    """Bound by how much the value may differ, between neighbouring nodes, from what they tell.

    Returns:
        The largest change where tangents and chord differ by more than half a nat; infinity for a
        value that is no `TokenValue`; 0 if they differ nowhere by as much.
    """
    tangents = _Tangents(
        rows.nodes(nodes.chord, _enclosed(ends.at, nodes.at)),
        _enclosed(ends.maxima, found.maxima),
        _enclosed(ends.maximum_slopes, found.maximum_slopes),
    )
    unseen = torch.zeros_like(nodes.at[:, 0])
    # In few intervals it matters where exactly tangents meet.
    _, low, high = _between(rows, tangents, n_steps=0)
    index = (~(high - low <= _LARGEST_GAP / 2)).any(1).nonzero().squeeze(-1)
    if not len(index):
        return unseen
    between, low, high = _between(rows, tangents.select(index), n_steps=_CROSSING_STEPS)
    change = torch.full_like(low, math.inf)
    if isinstance(value, TokenValue):
        logits = token_logits_at(rows, value, between)
        bounds = [value.of_tokens(logits, logits[:, :, 0] + bound) for bound in (low, high)]
        change = (bounds[0] - bounds[1]).abs().nan_to_num(math.inf)
    unseen[index] = torch.where(high - low <= _LARGEST_GAP, 0.0, change).amax(1)
    return unseen


@dataclass(frozen=True)
class _Tangents:
    """The tangent planes of a maximum at places; their slopes are NaN where unknown."""

    places: Nodes
    maxima: Tensor
    slopes: Tensor

    def __call__(self, mixture: Tensor) -> Tensor:
        """Return the planes, minus infinity where they are unknown."""
        plane = self.maxima + (self.slopes * (mixture - self.places.mixture)).sum(2)
        return torch.where(self.known, plane, -math.inf)

    @property
    def known(self) -> Tensor:
        return self.slopes.isfinite().all(2)

    def select(self, *index: Tensor | slice) -> _Tangents:
        """Return those of some intervals, or of some places of all."""
        return _Tangents(self.places.select(*index), self.maxima[index], self.slopes[index])


def _between(rows: ChordRows, tangents: _Tangents, n_steps: int) -> tuple[Nodes, Tensor, Tensor]:
    """Return where tangents of neighbouring places meet, and the maximum's two bounds there."""
    every = slice(None)
    left, right = tangents.select(every, slice(-1)), tangents.select(every, slice(1, None))
    between = _crossing(rows, left, right, n_steps)
    low = torch.maximum(left(between.mixture), right(between.mixture))
    share = (between.at - left.places.at) / (right.places.at - left.places.at)
    by_left = (1 - share) * between.inverse_norm / left.places.inverse_norm
    by_right = share * between.inverse_norm / right.places.inverse_norm
    high = by_left * left.maxima + by_right * right.maxima
    if rows.offset is not None:
        high = high + (by_left + by_right - 1) * rows.offset_range
    return between, low, high


def _crossing(rows: ChordRows, left: _Tangents, right: _Tangents, n_steps: int) -> Nodes:
    """Return where tangents meet, which is where the chord is farthest above them.

    Where one of them is unknown, its own place is the farthest.
    """
    low, high = left.places.at, right.places.at
    above = left.maxima - right(left.places.mixture)
    below = left(right.places.mixture) - right.maxima
    for step in range(n_steps + 1):
        share = (above / (above - below)).nan_to_num(0.5).clamp(0.01, 0.99)
        at = low + (high - low) * share
        at = torch.where(left.known, at, left.places.at)
        at = torch.where(right.known, at, right.places.at)
        between = rows.nodes(left.places.chord, at)
        if step == n_steps:
            return between
        difference = left(between.mixture) - right(between.mixture)
        is_left = difference > 0
        # Halving the value that stays keeps both ends moving (the Illinois rule).
        above = torch.where(is_left, difference, above / 2)
        below = torch.where(is_left, below / 2, difference)
        low, high = torch.where(is_left, at, low), torch.where(is_left, high, at)
    raise AssertionError("unreachable")


def _enclosed(ends: Tensor, inner: Tensor) -> Tensor:
    return torch.cat([ends[:, :1], inner, ends[:, 1:]], dim=1)


@lru_cache
def _legendre(n_nodes: int) -> Tensor:
    """Return the matrix from values at Gauss–Legendre nodes to Legendre coefficients."""
    points, weights = np.polynomial.legendre.leggauss(n_nodes)
    polynomials = np.polynomial.legendre.legvander(points, n_nodes - 1)
    factors = np.arange(n_nodes) + 0.5
    return torch.from_numpy(factors[:, None] * (polynomials * weights[:, None]).T)
