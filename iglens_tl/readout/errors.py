"""What a quadrature of gradients may have missed, from the numbers at its own nodes.

That the integral of the slope reproduces the change of the value says nothing of the parts of the
displacement: errors of parts may cancel, and a value that rises and falls between two nodes changes
neither the slope at the nodes nor the change. Two more things are looked at.

What the nodes see: the gradient's products with a few fixed random directions are expanded in
Legendre polynomials over the interval. How fast the coefficients fall says how large those are
which the rule does not integrate. The products are as large as the gradient's length, on average,
so that their error times the length of a part bounds the error of the part's share.

What lies between the nodes: the log-normaliser is a convex function of the two weights with which
the rows A and B are mixed. Between two nodes it lies above its two tangent planes and below the
plane through its two values (a norm moves the weights off the straight line between them, by a
known factor). Where both are close together, no token can be probable that is improbable at the
nodes; where they are not, and the value would notice, the interval is divided. The largest logit is
convex as well and serves values that are no `TokenValue`.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from iglens_tl.readout.chords import ChordRows, Nodes
from iglens_tl.readout.slopes import token_logits_at
from iglens_tl.readout.value import TokenValue, Value

_LARGEST_GAP = 0.5
"""In nats: by how much tangents and chord of the log-normaliser may differ between two nodes."""

_CROSSING_STEPS = 5
_ROUNDING = 2


def error_seen(
    products: Float[Tensor, "interval node probe"], rounding: Float[Tensor, "interval node"]
) -> Float[Tensor, " interval"]:
    """Estimate the error of a Gauss–Legendre rule from the integrands at its nodes.

    Of geometrically falling coefficients c_j the rule with n nodes misses about c_2n. The ratio is
    taken from two pairs of coefficients, over all integrands together, because single ones may
    vanish, and is not believed beyond a digit for every two nodes.

    Args:
        products: The integrands at the nodes in order; their errors' root mean square is estimated.
        rounding: The rounding of the integrands relative to themselves, which is not counted.
    """
    n_nodes = products.shape[1]
    coefficients = torch.einsum("jn,inp->ijp", _legendre(n_nodes).to(products), products)
    energies = coefficients.square().mean(2)
    noise = (rounding.square() * products.square().mean(2)).amax(1)
    last = (energies[:, -2:].amax(1) - _ROUNDING**2 * noise).clamp_min(0)
    if n_nodes < 4:
        return last.sqrt()
    before = torch.maximum(energies[:, -4:-2].amax(1), last)
    decay = torch.where(last > 0, last / before, 0) ** ((n_nodes + 1) / 4)
    return 2 * last.sqrt() * decay.clamp_min(10 ** (-n_nodes / 2))


def change_unseen(
    rows: ChordRows,
    value: Value,
    nodes: Nodes,
    ceilings: Float[Tensor, "interval node"],
    slopes: Float[Tensor, "interval node 2"],
) -> Float[Tensor, " interval"]:
    """Bound by how much the value may differ, between neighbouring nodes, from what they tell.

    Args:
        rows: The chords.
        value: The value.
        nodes: The places in order, the interval's ends among them.
        ceilings: See `Slopes`.
        slopes: See `Slopes`; NaN where it is unknown, at the ends.

    Returns:
        The largest change where tangents and chord differ by more than half a nat; infinity for a
        value that is no `TokenValue`; 0 if they differ nowhere by as much.
    """
    mix, scale = rows.mixture(nodes)[0], rows.inverse_norm(nodes)[0]
    left = _Side(nodes.at[:, :-1], mix[:, :-1], scale[:, :-1], ceilings[:, :-1], slopes[:, :-1])
    right = _Side(nodes.at[:, 1:], mix[:, 1:], scale[:, 1:], ceilings[:, 1:], slopes[:, 1:])
    at = _crossing(rows, nodes.chord, left, right)
    between = Nodes(nodes.chord, at)
    mix, scale = rows.mixture(between)[0], rows.inverse_norm(between)[0]
    low = torch.maximum(left.tangent(mix), right.tangent(mix))
    by_right = (at - left.at) / (right.at - left.at)
    weights = (1 - by_right) * scale / left.scale, by_right * scale / right.scale
    high = weights[0] * left.ceilings + weights[1] * right.ceilings
    if rows.offset is not None:
        high = high + (weights[0] + weights[1] - 1) * rows.offset_range
    open_to = ~(high - low <= _LARGEST_GAP)
    if not isinstance(value, TokenValue):
        return torch.where(open_to, math.inf, 0.0).amax(1).double()
    logits = token_logits_at(rows, value, between)
    first = logits[:, :, 0]
    change = value.of_tokens(logits, first + low) - value.of_tokens(logits, first + high)
    return torch.where(open_to, change.abs().nan_to_num(math.inf), 0.0).amax(1)


class _Side:
    """The nodes on one side of the gaps between neighbours, with the tangents there."""

    def __init__(
        self, at: Tensor, mix: Tensor, scale: Tensor, ceilings: Tensor, slopes: Tensor
    ) -> None:
        self.at, self.mix, self.scale = at, mix, scale
        self.ceilings, self.slopes = ceilings, slopes
        self.known = slopes.isfinite().all(2)

    def tangent(self, mix: Tensor) -> Tensor:
        """Return the tangent plane, minus infinity where it is unknown."""
        plane = self.ceilings + (self.slopes * (mix - self.mix)).sum(2)
        return torch.where(self.known, plane, -math.inf)


def _crossing(
    rows: ChordRows, chord: Int[Tensor, " interval"], left: _Side, right: _Side
) -> Tensor:
    """Return where the tangents meet, which is where the chord is farthest above them."""
    low, high = left.at, right.at
    above, below = left.ceilings - right.tangent(left.mix), left.tangent(right.mix) - right.ceilings
    for _ in range(_CROSSING_STEPS):
        share = (above / (above - below)).nan_to_num(0.5).clamp(0.01, 0.99)
        at = low + (high - low) * share
        mix = rows.mixture(Nodes(chord, at))[0]
        difference = left.tangent(mix) - right.tangent(mix)
        is_left = difference > 0
        # Halving the value that stays keeps both ends moving (the Illinois rule).
        above = torch.where(is_left, difference, above / 2)
        below = torch.where(is_left, below / 2, difference)
        low, high = torch.where(is_left, at, low), torch.where(is_left, high, at)
    at = (low + high) / 2
    at = torch.where(left.known, at, left.at)
    return torch.where(right.known, at, right.at)


@lru_cache
def _legendre(n_nodes: int) -> Tensor:
    """Return the matrix from values at Gauss–Legendre nodes to Legendre coefficients."""
    points, weights = np.polynomial.legendre.leggauss(n_nodes)
    polynomials = np.polynomial.legendre.legvander(points, n_nodes - 1)
    factors = np.arange(n_nodes) + 0.5
    return torch.from_numpy(factors[:, None] * (polynomials * weights[:, None]).T)
