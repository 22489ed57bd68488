"""Straight lines between states, seen from the vocabulary.

On the chord h(α) = (1−α)·a + α·b the raw readout R(h) = (γ ⊙ C h)·W_U is linear, so its value at
any α is a mixture of its values A and B at the two ends, and mean((C h)²) is a quadratic in α. With
x_v(α) = κ s(α)·((1−α) A_v + α B_v) + c_v, κ being the model's logit scale, every node costs a few
operations per vocabulary entry on the two end rows and no matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iglens_tl.readout.readout import Readout
from iglens_tl.readout.tiles import tile_columns
from iglens_tl.readout.value import Targets, Value

_SHARE_OF_TERMS = 1 / 2
"""Rounding of a product with W_U beside the product of the two vectors' lengths, in roundings."""

_SHORTEST = 1e-30
_FAR = 8
"""In lengths of a chord: from how far away roots of the squared norm do not disturb."""


@dataclass(frozen=True)
class Chords:
    """Straight lines between states, each with the target whose value is followed along it.

    Attributes:
        states: `[state, d_model]`, the end points.
        start: `[chord]`, the state at α = 0.
        end: `[chord]`, the state at α = 1.
        final: `[chord]`, the state from which the model itself predicts.
        tokens: `[chord]`, the target tokens.
    """

    states: Float[Tensor, "state d_model"]
    start: Int[Tensor, " chord"]
    end: Int[Tensor, " chord"]
    final: Int[Tensor, " chord"]
    tokens: Int[Tensor, " chord"]

    def __len__(self) -> int:
        """Return the number of chords."""
        return len(self.tokens)

    def select(self, index: Tensor) -> Chords:
        """Return some of the chords, with only the states that they need."""
        visited = torch.stack([self.start[index], self.end[index], self.final[index]])
        used, renumbered = torch.unique(visited, return_inverse=True)
        start, end, final = renumbered.unbind()
        return Chords(self.states[used], start, end, final, self.tokens[index])


@dataclass(frozen=True)
class Nodes:
    """Places on chords, the same number on each, and how states are mixed and scaled there.

    Attributes:
        chord: `[interval]`, the chord of each row of places.
        at: `[interval, node]`, the places α, float64.
        inverse_norm: `[interval, node]`, s(α) = 1 / sqrt(mean((C h(α))²) + eps), float64.
        mixture: `[interval, node, 2]`, the weights of A and B in x(α), float64.
        mixture_slope: `[interval, node, 2]`, their derivatives with respect to α.
    """

    chord: Int[Tensor, " interval"]
    at: Float[Tensor, "interval node"]
    inverse_norm: Float[Tensor, "interval node"]
    mixture: Float[Tensor, "interval node 2"]
    mixture_slope: Float[Tensor, "interval node 2"]

    def __len__(self) -> int:
        """Return the number of intervals."""
        return len(self.chord)

    @property
    def ends(self) -> Float[Tensor, "interval node 2"]:
        """The weights 1 − α and α of the two states."""
        return torch.stack([1 - self.at, self.at], dim=2)

    def select(self, *index: Tensor | slice) -> Nodes:
        """Return those of some intervals, or of some nodes of all."""
        return Nodes(
            self.chord[index[0]],
            self.at[index],
            self.inverse_norm[index],
            self.mixture[index],
            self.mixture_slope[index],
        )


class ChordRows:
    """The raw readout of some chords' states, kept while values are followed along them.

    Attributes:
        readout: The model's readout.
        chords: The lines, on the readout's device.
        rows: `[state, d_vocab]`, R of every state.
        lengths: `[chord]`, the length of every chord's displacement after centring, float64,
            never 0.
        offset: `[d_vocab]`, what is added at every place, the logit scale included; or None.
        probe_rows: `[probe, d_vocab]`, R of the probes: fixed random directions of the stream.
    """

    def __init__(self, readout: Readout, chords: Chords, *, n_probes: int = 0) -> None:
        self.readout = readout
        device = readout.device
        fields = (chords.start, chords.end, chords.final, chords.tokens)
        states = chords.states.to(device, readout.dtype)
        self.chords = Chords(states, *(field.to(device) for field in fields))
        self.offset = _offset(readout)
        self.offset_range = 0.0
        if self.offset is not None:
            self.offset_range = float(self.offset.max() - self.offset.min())
        probes = _random_directions(n_probes, states)
        projected = torch.cat([states, probes])
        if readout.norm is not None:
            projected = readout.norm.direction(projected)
        product = states.new_empty(len(projected), readout.d_vocab)
        width = tile_columns(readout, len(projected))
        for first in range(0, readout.d_vocab, width):
            last = min(first + width, readout.d_vocab)
            torch.mm(projected, readout.unembed_columns(first, last), out=product[:, first:last])
        self.rows, self.probe_rows = product[: len(states)], product[len(states) :]
        self._magnitudes = self.rows.new_zeros(len(states), dtype=torch.float64)
        self.longest_column = 0.0
        if n_probes:
            # On average, a probe's logits are as large as the columns of W_U.
            self.longest_column = float(self.probe_rows.square().mean(0).amax().sqrt())
            terms = _SHARE_OF_TERMS * self.longest_column * states.double().norm(dim=1)
            self._magnitudes = self.rows.abs().amax(1).double() + terms
        precise = states.double()
        centered = precise if readout.norm is None else readout.norm.center(precise)
        a, b = centered[self.chords.start], centered[self.chords.end]
        self._workspace = self.rows.new_empty(0)
        if readout.norm is not None:
            self._parabola = _Parabola.of(a, b, readout.norm.eps)
        # Parts may move the value where they cancel and nothing moves along the chord.
        self.lengths = (b - a).norm(dim=-1).clamp_min(_SHORTEST)
        centered_probes = probes if readout.norm is None else readout.norm.center(probes)
        along = torch.stack([a @ centered_probes.double().T, b @ centered_probes.double().T], 1)
        self._probes_along = along / readout.d_model

    def workspace(self, n_entries: int) -> Float[Tensor, " entry"]:
        """Return memory that the next call returns again: fresh pages cost more than arithmetic."""
        if len(self._workspace) < n_entries:
            self._workspace = self.rows.new_empty(n_entries)
        return self._workspace

    def places(
        self, chord: Int[Tensor, " interval"], spread: Float[Tensor, "interval node"]
    ) -> tuple[Float[Tensor, "interval node"], Float[Tensor, "interval node"]]:
        """Return the places α of a parameter from 0 to 1 in which chords are smooth, and dα/dτ.

        The square of a norm along a chord is a parabola in α, whose complex roots α₀ ± iδ keep
        polynomials from following 1 / norm. With α = α₀ + δ sinh t the norm is δ cosh t, up to a
        factor, and its roots are π/2 from every t. Where roots are far, the parameter is α.
        """
        if self.readout.norm is None:
            return spread, torch.ones_like(spread)
        parabola = self._parabola.select(chord)
        first, last = (torch.asinh((end - parabola.root) / parabola.height) for end in (0, 1))
        t = torch.lerp(first, last, spread)
        at = parabola.root + parabola.height * torch.sinh(t)
        speed = (last - first) * parabola.height * torch.cosh(t)
        is_far = parabola.is_far.expand_as(spread)
        return torch.where(is_far, spread, at.clamp(0, 1)), torch.where(is_far, 1.0, speed)

    def nodes(self, chord: Int[Tensor, " interval"], at: Float[Tensor, "interval node"]) -> Nodes:
        """Return places on chords with what is known of them without the vocabulary."""
        factor, rest = self.readout.transform.scale, 1 - at
        if self.readout.norm is None:
            scale, slope = torch.ones_like(at), torch.zeros_like(at)
        else:
            scale, slope = self._parabola.select(chord).inverse_root(at)
        return Nodes(
            chord,
            at,
            scale,
            factor * torch.stack([scale * rest, scale * at], dim=2),
            factor * torch.stack([slope * rest - scale, slope * at + scale], dim=2),
        )

    def rounding(self, nodes: Nodes) -> Float[Tensor, "interval node"]:
        """Return about how much rounding moves logits, and with them a gradient relative to itself.

        The terms of R may be far larger than R, and what is mixed than the mixture.
        """
        ends = torch.stack([self.chords.start[nodes.chord], self.chords.end[nodes.chord]], dim=1)
        mixed = (nodes.mixture * self._magnitudes[ends][:, None]).sum(2)
        return torch.finfo(self.rows.dtype).eps * (1 + self.offset_range + mixed)

    def along_probes(self, nodes: Nodes, products: Tensor, end_products: Tensor) -> Tensor:
        """Return the products of the gradient with the probes, `[interval, node, probe]`.

        Args:
            nodes: Where.
            products: `[interval, node, probe]`, q · R of the probes.
            end_products: `[interval, node, 2]`, q · A and q · B.
        """
        scale = nodes.inverse_norm
        if self.readout.norm is not None:
            states = torch.bmm(nodes.ends, self._probes_along[nodes.chord])
            products = (
                products - (scale**2 * (nodes.ends * end_products).sum(2))[:, :, None] * states
            )
        return self.readout.transform.scale * scale[:, :, None] * products

    def summed_sizes(self, nodes: Nodes, lengths: Tensor) -> Float[Tensor, "interval node"]:
        """Return about how large the terms are that a gradient sums, which may cancel.

        Args:
            nodes: Where.
            lengths: `[interval, node]`, the length of q.
        """
        scale = self.readout.transform.scale * nodes.inverse_norm
        return scale * self.longest_column * lengths

    def radial_sizes(self, nodes: Nodes, end_products: Tensor) -> Float[Tensor, "interval node"]:
        """Return how much of a gradient the norm takes away, which is large where it cancels."""
        scale = nodes.inverse_norm
        if self.readout.norm is None:
            return torch.zeros_like(scale)
        radial = scale**2 * (nodes.ends * end_products).sum(2).abs() / self.readout.d_model**0.5
        return self.readout.transform.scale * radial

    def ends(self, nodes: Nodes, columns: slice) -> Float[Tensor, "interval 2 tile"]:
        """Return A and B of every interval's chord in some columns of the vocabulary."""
        states = torch.stack([self.chords.start[nodes.chord], self.chords.end[nodes.chord]], dim=1)
        return self.rows[:, columns].index_select(0, states.flatten()).view(len(nodes), 2, -1)

    def targets(self, nodes: Nodes, value: Value) -> Targets:
        """Return what a value may know at every node."""
        n_nodes = nodes.at.shape[1]
        tokens = self.chords.tokens[nodes.chord, None].expand(-1, n_nodes)
        if not value.needs_final:
            return Targets(tokens)
        final = self.chords.final[nodes.chord]
        states = self.chords.states[final]
        scale = self.readout.transform.scale
        if self.readout.norm is not None:
            scale = scale * self.readout.norm.scale(states)[:, None]
        logits = self.transformed(self.rows[final] * scale)
        return Targets(tokens, logits[:, None].expand(-1, n_nodes, -1))

    def transformed(self, scaled: Tensor) -> Tensor:
        """Turn scaled rows of the whole vocabulary into the model's logits, in place."""
        logits = scaled if self.offset is None else scaled.add_(self.offset)
        cap = self.readout.transform.softcap
        return logits if cap is None else logits.div_(cap).tanh_().mul_(cap)


@dataclass(frozen=True)
class _Parabola:
    """The square of a norm along chords, curvature · ((α − root)² + height²).

    Written so, no digits cancel where a chord passes close by zero.
    """

    root: Tensor
    height: Tensor
    curvature: Tensor

    @classmethod
    def of(cls, start: Tensor, end: Tensor, eps: float) -> _Parabola:
        """Return mean(h²) + eps along lines between two states."""
        moved = end - start
        curvature = moved.square().mean(1).clamp_min(_SHORTEST)
        root = -(start * moved).mean(1) / curvature
        least = (start + root[:, None] * moved).square().mean(1) + eps
        return cls(root, (least / curvature).sqrt().clamp_min(_SHORTEST), curvature)

    @property
    def is_far(self) -> Tensor:
        """Whether the complex roots are far from the chord."""
        return torch.hypot(self.root - self.root.clamp(0, 1), self.height) > _FAR

    def select(self, chord: Tensor) -> _Parabola:
        """Return those of some chords, for any number of places on each."""
        return _Parabola(
            self.root[chord, None], self.height[chord, None], self.curvature[chord, None]
        )

    def inverse_root(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """Return 1 / sqrt at places, and its derivative."""
        from_root = at - self.root
        inverse = torch.rsqrt(self.curvature * (from_root**2 + self.height**2))
        return inverse, -(inverse**3) * self.curvature * from_root


def _random_directions(number: int, like: Tensor) -> Tensor:
    """Return the same vectors of independent normal entries at every call."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(number, like.shape[1], generator=generator, dtype=torch.float64)
    return directions.to(like)


def _offset(readout: Readout) -> Tensor | None:
    """Return κ (β · W_U + b_U)."""
    offset = readout.bias_columns(0, readout.d_vocab)
    bias = None if readout.norm is None else readout.norm.bias
    if bias is not None:
        width = tile_columns(readout, 1)
        tiles = [
            bias.to(readout.dtype) @ readout.unembed_columns(first, first + width)
            for first in range(0, readout.d_vocab, width)
        ]
        offset = torch.cat(tiles) if offset is None else torch.cat(tiles) + offset
    return None if offset is None else offset * readout.transform.scale
