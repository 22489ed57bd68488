"""Values and slopes along straight lines between states, without backward pass.

On the chord h(α) = (1−α)·a + α·b the raw readout R(h) = (γ ⊙ C h)·W_U is linear, so its value at
any α is a mixture of its values A and B at the two ends, and mean((C h)²) is a quadratic in α. With
x_v(α) = s(α)·((1−α) A_v + α B_v) + c_v, every node costs a few operations per vocabulary entry on
the two end rows and no matrix product; the slope of the value follows from
dx_v/dα = (s'(1−α) − s) A_v + (s'α + s) B_v.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iglens_tl.readout.readout import Readout
from iglens_tl.readout.tiles import ROWS_PER_PASS, SMALLEST_EXPONENT, vocabulary_tiles
from iglens_tl.readout.values import Value

_COLUMNS = 2048
_BLOCK_ENTRIES = 2**21


@dataclass(frozen=True)
class Chords:
    """Straight lines between states, each with the token whose value is followed along it.

    Attributes:
        states: `[state, d_model]`, the end points.
        start: `[chord]`, the state at α = 0.
        end: `[chord]`, the state at α = 1.
        tokens: `[chord]`, the target tokens.
    """

    states: Float[Tensor, "state d_model"]
    start: Int[Tensor, " chord"]
    end: Int[Tensor, " chord"]
    tokens: Int[Tensor, " chord"]

    def __len__(self) -> int:
        """Return the number of chords."""
        return len(self.tokens)

    def select(self, index: Tensor) -> Chords:
        """Return some of the chords, with only the states that they need."""
        ends = torch.stack([self.start[index], self.end[index]])
        used, renumbered = torch.unique(ends, return_inverse=True)
        return Chords(self.states[used], renumbered[0], renumbered[1], self.tokens[index])


@torch.no_grad()
def evaluate_chords(
    readout: Readout, value: Value, chords: Chords, nodes: Float[Tensor, "chord node"]
) -> tuple[Float[Tensor, "chord node"], Float[Tensor, "chord node"]]:
    """Evaluate a value and its slope d value / d α at nodes of every chord.

    Args:
        readout: The model's readout.
        value: What to evaluate.
        chords: The lines.
        nodes: `[chord, node]` positions α in [0, 1], float64.

    Returns:
        The values and the slopes, both `[chord, node]` in float64.
    """
    parts = []
    # A chord needs two states, and neighbouring chords share one of them.
    chords_per_pass = ROWS_PER_PASS // 2
    for first in range(0, len(chords), chords_per_pass):
        index = torch.arange(first, min(first + chords_per_pass, len(chords)))
        parts.append(_evaluate(readout, value, chords.select(index), nodes[index]))
    values, slopes = zip(*parts, strict=True)
    return torch.cat(values), torch.cat(slopes)


def _evaluate(
    readout: Readout, value: Value, chords: Chords, nodes: Tensor
) -> tuple[Tensor, Tensor]:
    states = chords.states.to(readout.device, readout.dtype)
    start, end = chords.start.to(readout.device), chords.end.to(readout.device)
    tokens, nodes = chords.tokens.to(readout.device), nodes.to(readout.device)
    scale, scale_slope = _inverse_norm(readout, states[start], states[end], nodes)
    # The model's logit scale is linear, so it joins the coefficients; only a softcap is left.
    scale, scale_slope = readout.transform.scale * scale, readout.transform.scale * scale_slope
    mix = torch.stack([scale * (1 - nodes), scale * nodes], dim=2)
    mix_slope = torch.stack([scale_slope * (1 - nodes) - scale, scale_slope * nodes + scale], dim=2)
    sums = _ExponentialSums(readout, mix.to(readout.dtype), tokens)
    rows = states if readout.norm is None else readout.norm.direction(states)
    norm_bias = None if readout.norm is None else readout.norm.bias
    if norm_bias is not None:  # β · W_U needs a row of its own
        rows = torch.cat([rows, norm_bias[None].to(rows)])
    for tile in vocabulary_tiles(readout, rows, columns=_COLUMNS):
        offset = readout.bias_columns(tile.start, tile.stop)
        ends = tile.product
        if norm_bias is not None:
            offset = ends[-1] if offset is None else ends[-1] + offset
            ends = ends[:-1]
        if offset is not None:
            offset = offset * readout.transform.scale
        found, columns = tile.find(tokens)
        sums.note_targets(ends, offset, start, end, found, columns)
        for block in _blocks(len(chords), nodes.shape[1] * ends.shape[1]):
            sums.add(block, ends[start[block]], ends[end[block]], offset)
    return sums.values_and_slopes(value, mix, mix_slope)


class _ExponentialSums:
    """Running sums over the vocabulary at every node: Σ e^z, Σ e^z T′ A and Σ e^z T′ B."""

    def __init__(self, readout: Readout, mix: Tensor, tokens: Tensor) -> None:
        n_chords, n_nodes, _ = mix.shape
        self.softcap = readout.transform.softcap
        self.mix = mix
        self.maximum = mix.new_full((n_chords, n_nodes), -torch.inf)
        self.sums = mix.new_zeros(n_chords, n_nodes, 3, dtype=torch.float64)
        self.target_ends = mix.new_zeros(len(tokens), 2, dtype=torch.float64)
        self.target_offset = mix.new_zeros(len(tokens), dtype=torch.float64)

    def note_targets(
        self,
        ends: Tensor,
        offset: Tensor | None,
        start: Tensor,
        end: Tensor,
        found: Tensor,
        columns: Tensor,
    ) -> None:
        self.target_ends[found, 0] = ends[start[found], columns].double()
        self.target_ends[found, 1] = ends[end[found], columns].double()
        if offset is not None:
            self.target_offset[found] = offset[columns].double()

    def add(self, block: slice, at_start: Tensor, at_end: Tensor, offset: Tensor | None) -> None:
        ends = torch.stack([at_start, at_end], dim=1)
        logits = torch.bmm(self.mix[block], ends)
        if offset is not None:
            logits.add_(offset)
        damping = None
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_()
            damping = 1 - logits.square()
            logits.mul_(self.softcap)
        maximum = torch.maximum(self.maximum[block], logits.amax(2))
        decay = torch.exp(self.maximum[block].double() - maximum.double())
        self.maximum[block] = maximum
        weights = logits.sub_(maximum[:, :, None]).clamp_min_(SMALLEST_EXPONENT).exp_()
        if damping is None:
            factors = torch.cat([torch.ones_like(ends[:, :1]), ends], dim=1)
            sums = torch.bmm(weights, factors.transpose(1, 2))
        else:
            damped = torch.bmm(weights * damping, ends.transpose(1, 2))
            sums = torch.cat([weights.sum(2, keepdim=True), damped], dim=2)
        self.sums[block] = self.sums[block] * decay[:, :, None] + sums

    def values_and_slopes(
        self, value: Value, mix: Tensor, mix_slope: Tensor
    ) -> tuple[Tensor, Tensor]:
        target = (mix * self.target_ends[:, None]).sum(2) + self.target_offset[:, None]
        target_slope = (mix_slope * self.target_ends[:, None]).sum(2)
        if self.softcap is not None:
            target = torch.tanh(target / self.softcap)
            target_slope = target_slope * (1 - target.square())
            target = self.softcap * target
        total = self.sums[:, :, 0]
        log_normalizer = self.maximum.double() + total.log()
        normalizer_slope = (mix_slope * self.sums[:, :, 1:]).sum(2) / total
        by_target, by_normalizer = value.slopes(target, log_normalizer)
        slopes = by_target * target_slope + by_normalizer * normalizer_slope
        return value.evaluate(target, log_normalizer).cpu(), slopes.cpu()


def _inverse_norm(
    readout: Readout, at_start: Tensor, at_end: Tensor, nodes: Tensor
) -> tuple[Tensor, Tensor]:
    """Return s(α) = 1 / sqrt(mean((C h(α))²) + eps) and its derivative, in float64."""
    if readout.norm is None:
        return torch.ones_like(nodes), torch.zeros_like(nodes)
    a, b = readout.norm.center(at_start).double(), readout.norm.center(at_end).double()
    aa, ab, bb = ((x * y).mean(-1)[:, None] for x, y in ((a, a), (a, b), (b, b)))
    mean_square = (1 - nodes) ** 2 * aa + 2 * nodes * (1 - nodes) * ab + nodes**2 * bb
    mean_square_slope = 2 * ((nodes - 1) * aa + (1 - 2 * nodes) * ab + nodes * bb)
    scale = torch.rsqrt(mean_square + readout.norm.eps)
    return scale, -0.5 * scale**3 * mean_square_slope


def _blocks(n_chords: int, entries_per_chord: int) -> list[slice]:
    size = max(1, _BLOCK_ENTRIES // entries_per_chord)
    return [slice(first, first + size) for first in range(0, n_chords, size)]
