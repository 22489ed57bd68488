"""Split what a block or the embedding writes into parts, each with its share of a credit.

A share is the product of a part with the integrated gradient of the value. The parts are never
made as vectors of their own: a head's share is the product of what it passes to W_O with
W_O · gradient, that of a source token the same with what the head read there, and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iglens_tl.models.components import head_values, split_heads, split_neurons
from iglens_tl.results import segments
from iglens_tl.trace import Trace


@dataclass(frozen=True)
class Parts:
    """Some terms of a sum, with labels.

    Attributes:
        labels: One for each part.
        shares: Maps integrated gradients `[target, d_model]` of some targets and the targets'
            numbers to the shares `[target, part]`, float64.
        rest: Where the parts are too many to be shown all, the label of those that are not;
            otherwise None.
    """

    labels: Sequence[str]
    shares: Callable[[Float[Tensor, "target d_model"], Int[Tensor, " target"]], Tensor]
    rest: str | None = None


def state_parts(trace: Trace, label: str, written: Float[Tensor, "row d_model"]) -> Parts:
    """Return what was written as a single part."""
    return Parts([label], partial(_share_of_state, trace, written))


def head_parts(trace: Trace, layer: int) -> list[Parts]:
    """Return a layer's heads, and the bias of its attention if there is one."""
    adapter = trace.adapter
    z = trace.states[adapter.head_site(layer)]
    passed_on = _AttentionShares(trace, layer, z)

    def shares(gradients: Tensor, targets: Tensor) -> Tensor:
        own = z[trace.target_rows[targets]]
        return (own * passed_on.before_heads(gradients, targets)).double().sum(2)

    labels = [segments.head_label(layer, head) for head in range(z.shape[1])]
    return [Parts(labels, shares), *passed_on.bias()]


def source_parts(
    trace: Trace, layer: int, patterns: Sequence[Tensor], values: Sequence[Tensor]
) -> list[Parts]:
    """Return what a layer's heads read at every position, and the bias of its attention.

    Args:
        trace: The texts, targets and model.
        layer: The block.
        patterns: For each text `[row, head, pos]`, the attention of its read positions.
        values: For each text `[pos, …]`, what heads can read at each position.
    """
    adapter, n_texts = trace.adapter, len(trace.requests)
    z = trace.states[adapter.head_site(layer)]
    passed_on = _AttentionShares(trace, layer, z)
    row_texts = torch.tensor(trace.row_texts)
    rows_of = [(row_texts == text).nonzero().squeeze(-1) for text in range(n_texts)]
    of_heads = [
        head_values(adapter, layer, values[text], patterns[text], z[rows_of[text]])
        for text in range(n_texts)
    ]
    n_heads = z.shape[1]
    n_sources = 1 + max(max(request.positions) for request in trace.requests)

    def shares(gradients: Tensor, targets: Tensor) -> Tensor:
        before = passed_on.before_heads(gradients, targets)
        found = before.new_zeros(len(targets), n_heads, n_sources, dtype=torch.float64)
        rows = trace.target_rows[targets]
        for text in row_texts[rows].unique().tolist():
            mine = (row_texts[rows] == text).nonzero().squeeze(-1)
            attended = patterns[text][rows[mine] - rows_of[text][0]]
            n_read = min(n_sources, attended.shape[2])
            readable = of_heads[text][:n_read]
            of_sources = torch.einsum("phd,thd->thp", readable, before[mine])
            found[mine, :, :n_read] = (attended[:, :, :n_read] * of_sources).double()
        return found.flatten(1)

    labels = [
        segments.source_label(layer, head, source)
        for head in range(n_heads)
        for source in range(n_sources)
    ]
    return [Parts(labels, shares), *passed_on.bias()]


def neuron_parts(trace: Trace, layer: int, site: str) -> list[Parts]:
    """Return the neurons of a layer's MLP, and its bias if there is one."""
    adapter = trace.adapter
    mlp_site = adapter.mlp_site(layer)
    assert mlp_site is not None
    activations = trace.states[site]
    neurons = split_neurons(adapter, layer, activations, trace.states[mlp_site])

    def shares(gradients: Tensor, targets: Tensor) -> Tensor:
        rows = trace.target_rows[targets]
        of_weights = (neurons.scale[rows] * gradients) @ neurons.weight.T
        return (activations[rows] * of_weights).double()

    labels = [segments.neuron_label(layer, neuron) for neuron in range(activations.shape[1])]
    parts = [Parts(labels, shares, rest=segments.mlp_rest_label(layer))]
    if neurons.bias is not None:
        label = segments.mlp_bias_label(layer)
        parts.append(state_parts(trace, label, neurons.scale * neurons.bias))
    return parts


def _share_of_state(trace: Trace, written: Tensor, gradients: Tensor, targets: Tensor) -> Tensor:
    own = written[trace.target_rows[targets]].double()
    return (own * gradients.double()).sum(1, keepdim=True)


class _AttentionShares:
    """The way from gradients at the stream back to the outputs of a layer's heads."""

    def __init__(self, trace: Trace, layer: int, z: Tensor) -> None:
        self.trace, self.layer = trace, layer
        attn_out = trace.states[trace.adapter.attn_site(layer)]
        self.heads = split_heads(trace.adapter, layer, z, attn_out)

    def before_heads(
        self, gradients: Tensor, targets: Tensor
    ) -> Float[Tensor, "target head d_head"]:
        scale = self.heads.scale[self.trace.target_rows[targets]]
        return torch.einsum("hdm,tm->thd", self.heads.weight, scale * gradients)

    def bias(self) -> list[Parts]:
        if self.heads.bias is None:
            return []
        label = segments.attention_bias_label(self.layer)
        return [state_parts(self.trace, label, self.heads.scale * self.heads.bias)]
