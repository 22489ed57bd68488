"""Values at places on chords, and what moves them: the slope and the gradient's two forms.

The gradient of a value with respect to the raw readout is a row of the vocabulary, q. Only three
things are ever made of it: its products with the end rows A and B, from which the slope along the
chord follows, and its weighted sum over the nodes, from which the gradient with respect to the
state follows by one product with W_U for the whole chord.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iglens_tl.readout.integrals.chords import ChordRows, Nodes
from iglens_tl.readout.tiles import SMALLEST_EXPONENT
from iglens_tl.readout.value import TokenValue, Value

_BLOCK_ENTRIES = 2**23
_SLICE_ENTRIES = 2**21


@dataclass(frozen=True)
class Slopes:
    """What is known of a value at the nodes of some intervals.

    Attributes:
        values: `[interval, node]`, the value, float64.
        slopes: `[interval, node]`, d value / d α, float64.
        end_products: `[interval, node, 2]`, q · A and q · B, float64.
        probes: `[interval, node, probe]`, the gradient's products with the probes, float64.
        maxima: `[interval, node]`, a convex function of the two weights with which A and B are
            mixed, which says how large logits are: for a `TokenValue` the log-normaliser above
            the logit of its first token, for others the largest logit before the softcap.
        maximum_slopes: `[interval, node, 2]`, its derivatives with respect to the two weights.
        rows: Gives weighted sums of q over the nodes.
    """

    values: Float[Tensor, "interval node"]
    slopes: Float[Tensor, "interval node"]
    end_products: Float[Tensor, "interval node 2"]
    probes: Float[Tensor, "interval node probe"]
    maxima: Float[Tensor, "interval node"]
    maximum_slopes: Float[Tensor, "interval node 2"]
    rows: GradientRows


class GradientRows(ABC):
    """The gradients q with respect to the raw readout at the nodes of some intervals.

    Weights may be taken for zero where products of them and e^−60 are denormal.
    """

    @property
    @abstractmethod
    def sizes(self) -> Float[Tensor, " interval"]:
        """Return about how large q gets on each interval, float64."""

    @property
    @abstractmethod
    def lengths(self) -> Float[Tensor, "interval node"]:
        """Return about the length of q, as far as it is not less, float64."""

    @abstractmethod
    def add_to(
        self, total: Tensor, owners: Tensor, weights: Float[Tensor, "interval node"]
    ) -> None:
        """Add each interval's weighted sum over its nodes to a row of a total, its owner."""


def slopes_at(rows: ChordRows, value: Value, nodes: Nodes) -> Slopes:
    """Evaluate a value and its gradient at nodes of chords; see `blocks_of` for their number.

    The next call for the same rows overwrites the gradients.
    """
    if isinstance(value, TokenValue):
        return _of_token_value(rows, value, nodes)
    return _of_whole_rows(rows, value, nodes)


def values_at_ends(
    rows: ChordRows, value: Value, chord: Int[Tensor, " end"], at_end: Bool[Tensor, " end"]
) -> Float[Tensor, "2 end"]:
    """Evaluate a value, and its ceiling, at the start or end of chords, in float64.

    One row instead of the two of a place between makes this several times cheaper.
    """
    nodes = rows.nodes(chord, at_end.double()[:, None])
    if not isinstance(value, TokenValue):
        found = []
        for block in blocks_of(rows, *nodes.at.shape):
            at_block = slopes_at(rows, value, nodes.select(block))
            found.append(torch.stack([at_block.values[:, 0], at_block.maxima[:, 0]]))
        return torch.cat(found, dim=1)
    states = torch.where(at_end, rows.chords.end[chord], rows.chords.start[chord])
    columns = value.columns(rows.chords.tokens[chord])
    scale = rows.readout.transform.scale * nodes.inverse_norm
    raw = rows.rows[states[:, None], columns].double() * scale
    if rows.offset is not None:
        raw = raw + rows.offset[columns].double()
    logits, _ = _transformed(raw, rows.readout.transform.softcap)
    log_normalizers = []
    for block in blocks_of(rows, *nodes.at.shape):
        row = rows.transformed(rows.rows[states[block]].mul_(scale[block].to(rows.rows)))
        row.sub_(logits[block, :1].to(row))
        maximum = row.amax(1, keepdim=True)
        row.sub_(maximum).clamp_min_(SMALLEST_EXPONENT).exp_().scatter_(1, columns[block], 0)
        own = torch.exp(logits[block] - logits[block, :1] - maximum.double())
        total = row.sum(1).double() + own.sum(1)
        log_normalizers.append(logits[block, 0] + maximum[:, 0].double() + total.log())
    log_normalizer = torch.cat(log_normalizers)
    return torch.stack([value.of_tokens(logits, log_normalizer), log_normalizer - logits[:, 0]])


def token_logits_at(
    rows: ChordRows, value: TokenValue, nodes: Nodes
) -> Float[Tensor, "interval node token"]:
    """Return the logits that a value needs, without touching the vocabulary."""
    columns = value.columns(rows.chords.tokens[nodes.chord])
    return _at_tokens(rows, nodes, columns)[1]


def blocks_of(rows: ChordRows, n_intervals: int, n_nodes: int) -> list[slice]:
    """Divide intervals so that one block's vocabulary rows stay small."""
    size = max(1, _BLOCK_ENTRIES // (n_nodes * rows.readout.d_vocab))
    return [slice(first, first + size) for first in range(0, n_intervals, size)]


class _SoftmaxRows(GradientRows):
    """q of a `TokenValue`: a multiple of the softmax, and single entries at the tokens.

    Logits and end rows are taken relative to those of the value's first token, and the value's
    tokens join the sums over the vocabulary only in float64. Where they have nearly all the
    probability, what the others have is then as precise as everywhere.
    """

    def __init__(self, rows: ChordRows, nodes: Nodes, value: TokenValue) -> None:
        self.columns = value.columns(rows.chords.tokens[nodes.chord])
        self.mix = nodes.mixture
        self.softcap = rows.readout.transform.softcap
        found = _at_tokens(rows, nodes, self.columns)
        raw, self.logits, self.damping, self.ends = found
        self.slices: list[tuple[slice, Tensor, Tensor]] = []
        self.maximum = torch.full_like(raw[:, :, 0], -torch.inf)
        parts = []
        n_intervals, n_nodes = nodes.at.shape
        width = max(1024, _SLICE_ENTRIES // (n_intervals * n_nodes))
        for first in range(0, rows.readout.d_vocab, width):
            columns = slice(first, min(first + width, rows.readout.d_vocab))
            maximum, sums, weights = self._slice(rows, nodes, columns, raw[:, :, :1])
            parts.append((maximum, sums))
            self.slices.append((columns, maximum, weights))
            self.maximum = torch.maximum(self.maximum, maximum)
        # Σ e^z, Σ e^z T′ and Σ e^z T′ (A, B, probes), (A, B) relative to the first token.
        self.sums = torch.zeros_like(parts[0][1])
        for maximum, part in parts:
            self.sums += torch.exp(maximum - self.maximum)[:, :, None] * part
        own = torch.exp(self.logits - self.logits[:, :, :1] - self.maximum[:, :, None])
        damped = own * self.damping
        relative = self.ends - self.ends[:, :, :1]
        self.sum_of_others = self.sums[:, :, 1].clone()
        self.sums[:, :, 0] += own.sum(2)
        self.sums[:, :, 1] += damped.sum(2)
        self.sums[:, :, 2:4] += torch.bmm(damped, relative.transpose(1, 2))
        self.log_normalizer = self.logits[:, :, 0] + self.maximum + self.sums[:, :, 0].log()
        by_tokens, by_normalizer = value.slopes(self.logits, self.log_normalizer)
        self.by_total = by_normalizer / self.sums[:, :, 0]
        self.by_tokens = by_tokens * self.damping
        probs = torch.exp(self.logits - self.log_normalizer[:, :, None])
        self.at_tokens = self.by_tokens + by_normalizer[:, :, None] * probs * self.damping

    def _slice(
        self, rows: ChordRows, nodes: Nodes, columns: slice, reference: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the maximum, the sums and the weights e^(z − maximum) T′ of some columns."""
        ends = rows.ends(nodes, columns).sub_(self.ends[:, :, :1].to(rows.rows))
        n_intervals, n_nodes, _ = self.mix.shape
        before = n_intervals * n_nodes * columns.start
        logits = rows.workspace(n_intervals * n_nodes * rows.readout.d_vocab)[before:]
        logits = logits[: n_intervals * n_nodes * ends.shape[2]].view(n_intervals, n_nodes, -1)
        torch.bmm(self.mix.to(ends), ends, out=logits)
        if rows.offset is not None:
            first = rows.offset[self.columns[:, 0]]
            logits.add_((rows.offset[columns] - first[:, None])[:, None])
        damping = None
        if self.softcap is not None:
            logits.add_(reference.to(logits)).div_(self.softcap)
            # 1 − tanh² would lose all digits of a small derivative.
            damping = torch.cosh(logits).reciprocal_().square_()
            logits.tanh_().mul_(self.softcap).sub_(self.logits[:, :, :1].to(logits))
        maximum = logits.amax(2)
        weights = logits.sub_(maximum[:, :, None]).clamp_min_(SMALLEST_EXPONENT).exp_()
        interval, _, place = self._inside(columns)
        weights[interval, :, place] = 0
        total = damped = weights.sum(2)
        if damping is not None:
            damped = weights.mul_(damping).sum(2)
        end_products = torch.bmm(weights, ends.transpose(1, 2))
        sums = [torch.stack([total, damped], dim=2), end_products]
        if len(rows.probe_rows):
            probes = weights.flatten(0, 1) @ rows.probe_rows[:, columns].T
            sums.append(probes.view(n_intervals, n_nodes, -1))
        return maximum.double(), torch.cat(sums, dim=2).double(), weights

    def _inside(self, columns: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Return the intervals and numbers of the tokens in a slice, and their places there."""
        inside = (self.columns >= columns.start) & (self.columns < columns.stop)
        interval, token = inside.nonzero(as_tuple=True)
        return interval, token, self.columns[interval, token] - columns.start

    @property
    def sizes(self) -> Tensor:
        return torch.maximum(self.by_total.abs().amax(1), self.at_tokens.abs().amax((1, 2)))

    @property
    def lengths(self) -> Tensor:
        of_others = self.by_total * self.sum_of_others
        return (self.at_tokens.square().sum(2) + of_others.square()).sqrt()

    def end_products(self) -> Tensor:
        """Return q · A and q · B."""
        first = self.ends[:, :, :1]
        shifted = torch.bmm(self.by_tokens, (self.ends - first).transpose(1, 2))
        shifted = shifted + self.by_total[:, :, None] * self.sums[:, :, 2:4]
        left = self.by_tokens.sum(2) + self.by_total * self.sums[:, :, 1]
        return shifted + left[:, :, None] * first.transpose(1, 2)

    def probe_products(self, rows: ChordRows) -> Tensor:
        """Return q · R of the probes."""
        probes = rows.probe_rows[:, self.columns].permute(1, 2, 0).double()
        of_tokens = torch.bmm(self.at_tokens, probes)
        return of_tokens + self.by_total[:, :, None] * self.sums[:, :, 4:]

    def maximum_slopes(self) -> Tensor:
        """Return the derivatives of the log-normaliser above the first token's logit."""
        means = self.sums[:, :, 1:4] / self.sums[:, :, :1]
        damping = means[:, :, :1] - self.damping[:, :, :1]
        return means[:, :, 1:] + damping * self.ends[:, None, :, 0]

    def add_to(self, total: Tensor, owners: Tensor, weights: Tensor) -> None:
        smallest = torch.finfo(total.dtype).tiny * math.exp(-SMALLEST_EXPONENT)
        of_softmax = F.hardshrink(weights * self.by_total, smallest)
        of_tokens = (weights[:, :, None] * self.at_tokens).sum(1).to(total)
        for columns, maximum, exponentials in self.slices:
            mix = (of_softmax * torch.exp(maximum - self.maximum)).to(exponentials)
            added = torch.bmm(mix[:, None], exponentials)[:, 0]
            interval, token, place = self._inside(columns)
            added[interval, place] = of_tokens[interval, token]
            total[:, columns].index_add_(0, owners, added)


def _at_tokens(
    rows: ChordRows, nodes: Nodes, columns: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return tokens' logits before and after the softcap, its derivative, and A and B there."""
    start, end = rows.chords.start[nodes.chord, None], rows.chords.end[nodes.chord, None]
    ends = torch.stack([rows.rows[start, columns], rows.rows[end, columns]], dim=1).double()
    raw = torch.bmm(nodes.mixture, ends)
    if rows.offset is not None:
        raw = raw + rows.offset[columns][:, None].double()
    return raw, *_transformed(raw, rows.readout.transform.softcap), ends


def _of_token_value(rows: ChordRows, value: TokenValue, nodes: Nodes) -> Slopes:
    softmax = _SoftmaxRows(rows, nodes, value)
    values = value.of_tokens(softmax.logits, softmax.log_normalizer)
    end_products = softmax.end_products()
    return Slopes(
        values=values,
        slopes=(nodes.mixture_slope * end_products).sum(2),
        end_products=end_products,
        probes=rows.along_probes(nodes, softmax.probe_products(rows), end_products),
        maxima=softmax.log_normalizer - softmax.logits[:, :, 0],
        maximum_slopes=softmax.maximum_slopes(),
        rows=softmax,
    )


def _transformed(raw: Tensor, softcap: float | None) -> tuple[Tensor, Tensor]:
    """Return logits T(x) and their derivatives T′(x)."""
    if softcap is None:
        return raw, torch.ones_like(raw)
    capped = torch.tanh(raw / softcap)
    return softcap * capped, 1 - capped.square()


class _WholeRows(GradientRows):
    """q of any value, kept as it is."""

    def __init__(self, rows: Tensor, logits: Tensor) -> None:
        self.rows = F.hardshrink(rows, torch.finfo(rows.dtype).tiny)
        self.logits = logits

    @property
    def sizes(self) -> Tensor:
        return self.rows.abs().amax((1, 2)).double()

    @property
    def lengths(self) -> Tensor:
        # Terms such as p log p may cancel, of entropies and divergences, but not what p multiplies.
        of_probs = self.logits.softmax(2).norm(dim=2)
        return torch.maximum(self.rows.norm(dim=2), of_probs).double()

    def add_to(self, total: Tensor, owners: Tensor, weights: Tensor) -> None:
        added = torch.bmm(weights[:, None].to(self.rows), self.rows)[:, 0]
        total.index_add_(0, owners, added)


def _of_whole_rows(rows: ChordRows, value: Value, nodes: Nodes) -> Slopes:
    ends = rows.ends(nodes, slice(rows.readout.d_vocab))
    logits = rows.transformed(torch.bmm(nodes.mixture.to(ends), ends))
    targets = rows.targets(nodes, value)
    gradients = value.gradient(logits, targets)
    softcap = rows.readout.transform.softcap
    if softcap is not None:
        gradients = gradients * (1 - (logits / softcap).square())
    end_products = torch.bmm(gradients, ends.transpose(1, 2)).double()
    values = value.evaluate(logits, targets).double()
    probes = (gradients.flatten(0, 1) @ rows.probe_rows.T).view(*nodes.at.shape, -1).double()
    top = logits.argmax(2)
    at_top = ends.gather(2, top[:, None].expand(-1, 2, -1)).transpose(1, 2).double()
    maxima = (nodes.mixture * at_top).sum(2)
    if rows.offset is not None:
        maxima = maxima + rows.offset[top].double()
    return Slopes(
        values=values,
        slopes=(nodes.mixture_slope * end_products).sum(2),
        end_products=end_products,
        probes=rows.along_probes(nodes, probes, end_products),
        maxima=maxima,
        maximum_slopes=at_top,
        rows=_WholeRows(gradients, logits),
    )
