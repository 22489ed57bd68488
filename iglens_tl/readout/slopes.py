"""Values at places on chords, and what moves them: the slope and the gradient's two forms.

The gradient of a value with respect to the raw readout is a row of the vocabulary, q. Only three
things are ever made of it: its products with the end rows A and B, from which the slope along the
chord follows, and its weighted sum over the nodes, from which the gradient with respect to the
state follows by one product with W_U for the whole chord.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from iglens_tl.readout.chords import ChordRows, Nodes
from iglens_tl.readout.tiles import SMALLEST_EXPONENT
from iglens_tl.readout.value import TokenValue, Value

_SMALLEST_WEIGHT = 1e-11
_BLOCK_ENTRIES = 2**21
_SLICE_ENTRIES = 2**18


@dataclass(frozen=True)
class Slopes:
    """What is known of a value at the nodes of some pieces.

    Attributes:
        values: `[piece, node]`, the value, float64.
        slopes: `[piece, node]`, d value / d α, float64.
        pulls: `[piece, node, 2]`, q · A and q · B, float64.
        rows: Gives weighted sums of q over the nodes.
    """

    values: Float[Tensor, "piece node"]
    slopes: Float[Tensor, "piece node"]
    pulls: Float[Tensor, "piece node 2"]
    rows: GradientRows


class GradientRows(ABC):
    """The gradients q with respect to the raw readout at the nodes of some pieces.

    Weights below 1e-11 of the largest may be taken for zero, so that no product is denormal.
    """

    @property
    @abstractmethod
    def sizes(self) -> Float[Tensor, " piece"]:
        """Return about how large q gets on each piece, float64."""

    @abstractmethod
    def add_to(self, total: Tensor, owners: Tensor, weights: Float[Tensor, "piece node"]) -> None:
        """Add each piece's weighted sum over its nodes to the row `owners[piece]` of a total."""


def slopes_at(rows: ChordRows, value: Value, nodes: Nodes) -> Slopes:
    """Evaluate a value and its gradient at nodes of chords; see `blocks_of` for their number."""
    if isinstance(value, TokenValue):
        return _of_token_value(rows, value, nodes)
    return _of_whole_rows(rows, value, nodes)


def blocks_of(rows: ChordRows, nodes: Nodes) -> list[slice]:
    """Divide pieces so that one block's vocabulary rows stay small."""
    per_piece = nodes.at.shape[1] * rows.readout.d_vocab
    size = max(1, _BLOCK_ENTRIES // per_piece)
    return [slice(first, first + size) for first in range(0, len(nodes), size)]


class _SoftmaxRows(GradientRows):
    """q of a `TokenValue`: a multiple of the softmax, and single entries at the tokens."""

    def __init__(self, rows: ChordRows, nodes: Nodes, mix: Tensor) -> None:
        self.slices: list[tuple[slice, Tensor, Tensor]] = []
        n_pieces, n_nodes = nodes.at.shape
        width = max(1024, _SLICE_ENTRIES // (n_pieces * n_nodes))
        softcap, mix = rows.readout.transform.softcap, mix.to(rows.rows.dtype)
        self.maximum = mix.new_full((n_pieces, n_nodes), -torch.inf, dtype=torch.float64)
        parts = []
        for first in range(0, rows.readout.d_vocab, width):
            columns = slice(first, min(first + width, rows.readout.d_vocab))
            ends = rows.ends(nodes, columns)
            logits = torch.bmm(mix, ends)
            if rows.offset is not None:
                logits.add_(rows.offset[columns])
            damping = None
            if softcap is not None:
                logits.div_(softcap).tanh_()
                damping = 1 - logits.square()
                logits.mul_(softcap)
            maximum = logits.amax(2)
            weights = logits.sub_(maximum[:, :, None]).clamp_min_(SMALLEST_EXPONENT).exp_()
            total = weights.sum(2)
            if damping is not None:
                weights = weights * damping
            pulls = torch.bmm(weights, ends.transpose(1, 2))
            parts.append((maximum, torch.cat([total[:, :, None], pulls], dim=2).double()))
            self.slices.append((columns, maximum.double(), weights))
            self.maximum = torch.maximum(self.maximum, maximum.double())
        self.sums = torch.zeros_like(parts[0][1])
        for maximum, part in parts:
            self.sums += torch.exp(maximum.double() - self.maximum)[:, :, None] * part
        self.by_total = torch.zeros_like(self.maximum)
        self.columns = self.by_tokens = torch.empty(0)

    @property
    def sizes(self) -> Tensor:
        return self.by_total.abs().amax(1)

    def add_to(self, total: Tensor, owners: Tensor, weights: Tensor) -> None:
        of_softmax = weights * self.by_total
        of_softmax = F.hardshrink(of_softmax, _SMALLEST_WEIGHT)
        for columns, maximum, exponentials in self.slices:
            mix = (of_softmax * torch.exp(maximum - self.maximum)).to(exponentials)
            added = torch.bmm(mix[:, None], exponentials)[:, 0]
            total[:, columns].index_add_(0, owners, added)
        of_tokens = (weights[:, :, None] * self.by_tokens).sum(1).to(total)
        rows = owners[:, None].expand_as(self.columns)
        total.index_put_((rows, self.columns), of_tokens, accumulate=True)


def _of_token_value(rows: ChordRows, value: TokenValue, nodes: Nodes) -> Slopes:
    mix, mix_slope = rows.mixture(nodes)
    softmax = _SoftmaxRows(rows, nodes, mix)
    columns = value.columns(rows.chords.tokens[nodes.chord])
    start, end = rows.chords.start[nodes.chord, None], rows.chords.end[nodes.chord, None]
    ends = torch.stack([rows.rows[start, columns], rows.rows[end, columns]], dim=1).double()
    logits = torch.bmm(mix, ends)
    if rows.offset is not None:
        logits = logits + rows.offset[columns][:, None].double()
    damping = torch.ones_like(logits)
    softcap = rows.readout.transform.softcap
    if softcap is not None:
        logits = torch.tanh(logits / softcap)
        damping = 1 - logits.square()
        logits = softcap * logits
    total = softmax.sums[:, :, 0]
    log_normalizer = softmax.maximum + total.log()
    by_tokens, by_normalizer = value.slopes(logits, log_normalizer)
    softmax.columns, softmax.by_tokens = columns, by_tokens * damping
    softmax.by_total = by_normalizer / total
    pulls = torch.bmm(softmax.by_tokens, ends.transpose(1, 2))
    pulls = pulls + softmax.by_total[:, :, None] * softmax.sums[:, :, 1:]
    slopes = (mix_slope * pulls).sum(2)
    return Slopes(value.of_tokens(logits, log_normalizer), slopes, pulls, softmax)


class _WholeRows(GradientRows):
    """q of any value, kept as it is."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = F.hardshrink(rows, torch.finfo(rows.dtype).tiny)

    @property
    def sizes(self) -> Tensor:
        return self.rows.abs().amax((1, 2)).double()

    def add_to(self, total: Tensor, owners: Tensor, weights: Tensor) -> None:
        added = torch.bmm(weights[:, None].to(self.rows), self.rows)[:, 0]
        total.index_add_(0, owners, added)


def _of_whole_rows(rows: ChordRows, value: Value, nodes: Nodes) -> Slopes:
    mix, mix_slope = rows.mixture(nodes)
    ends = rows.ends(nodes, slice(rows.readout.d_vocab))
    logits = rows.transformed(torch.bmm(mix.to(ends), ends))
    targets = rows.targets(nodes, value)
    gradients = value.gradient(logits, targets)
    softcap = rows.readout.transform.softcap
    if softcap is not None:
        gradients = gradients * (1 - (logits / softcap).square())
    pulls = torch.bmm(gradients, ends.transpose(1, 2)).double()
    slopes = (mix_slope * pulls).sum(2)
    values = value.evaluate(logits, targets).double()
    return Slopes(values, slopes, pulls, _WholeRows(gradients))
