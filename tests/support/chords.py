"""Components as vectors and gradients along chords, by the plainest means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iglens_tl.models import adapt
from iglens_tl.models.components import embedding_sites
from iglens_tl.readout import Readout


def states_of(model: Any, ids: list[int]) -> list[Tensor]:
    """Return the mean of the embedding states and the states after it and every block.

    Each is `[pos, d_model]`, for all positions but the last.
    """
    adapter = adapt(model)
    sites = [adapter.embed_site, *map(adapter.post_site, range(adapter.n_layers))]
    kept = cache_of(model, ids)
    states = [kept[site] for site in sites]
    baseline = states[0].mean(0).expand_as(states[0])
    return [state[:-1] for state in (baseline, *states)]


def cache_of(model: Any, ids: list[int]) -> dict[str, Tensor]:
    """Return every activation of one text, without the batch axis."""
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([ids]))
    # Hooks inside experts fire for the tokens that were sent there, which may be none.
    return {name: value[0] for name, value in cache.items() if len(value)}


def part_vectors(model: Any, ids: list[int], layer: int | None) -> dict[str, Tensor]:
    """Return what each part of a block, or of the embedding for None, writes.

    The same is written as attention, heads and what heads read at each source, and as MLP and
    neurons. No norm may stand between a sublayer and the stream, and heads share no values.

    Returns:
        By label `[pos, d_model]`, for all positions but the last.
    """
    kept, blocks = cache_of(model, ids), model.blocks
    if layer is None:
        of_sites = {label: kept[site] for label, site in embedding_sites(adapt(model))}
        return {label: (state - state.mean(0))[:-1] for label, state in of_sites.items()}
    prefix, attention, mlp = f"blocks.{layer}", blocks[layer].attn, blocks[layer].mlp
    z, values = kept[f"{prefix}.attn.hook_z"], kept[f"{prefix}.attn.hook_v"]
    pattern, neurons = kept[f"{prefix}.attn.hook_pattern"], kept[f"{prefix}.mlp.hook_post"]
    vectors = {
        f"L{layer}.attn": kept[f"{prefix}.hook_attn_out"],
        f"L{layer}.attn_bias": attention.b_O.expand(len(ids), -1),
        f"L{layer}.mlp": kept[f"{prefix}.hook_mlp_out"],
        f"L{layer}.mlp_bias": mlp.b_out.expand(len(ids), -1),
    }
    for head in range(z.shape[1]):
        vectors[f"L{layer}.H{head}"] = z[:, head] @ attention.W_O[head]
        for source in range(len(ids)):
            read = pattern[head, :, source, None] * values[source, head]
            vectors[f"L{layer}.H{head}<pos {source}"] = read @ attention.W_O[head]
    for neuron in range(neurons.shape[1]):
        vectors[f"L{layer}.mlp.n{neuron}"] = neurons[:, neuron, None] * mlp.W_out[neuron]
    return {label: vector[:-1].detach() for label, vector in vectors.items()}


def gradient_at(readout: Readout, states: Tensor, tokens: list[int]) -> tuple[Tensor, Tensor]:
    """Return the probabilities of the tokens and their gradients, by autograd."""
    states = states.detach().requires_grad_()
    probs = readout.logits(states).softmax(-1).gather(1, torch.tensor(tokens)[:, None])[:, 0]
    (gradients,) = torch.autograd.grad(probs.sum(), states)
    return probs.detach(), gradients


def integrate(
    readout: Readout,
    start: Tensor,
    end: Tensor,
    tokens: list[int],
    *,
    weight: Callable[[float], float] = lambda _: 1.0,
    n_nodes: int = 160,
) -> tuple[Tensor, Tensor]:
    """Return the mean of the probability along each chord and the weighted mean of its gradient.

    Args:
        readout: The readout.
        start: `[row, d_model]`, where the chords begin.
        end: `[row, d_model]`, where they end.
        tokens: The token of each row.
        weight: The gradients' weight at each place of the chords, from 0 to 1.
        n_nodes: Nodes of the Gauss–Legendre rule.
    """
    mean, gradient = torch.zeros(len(start)).double(), torch.zeros_like(start)
    for point, share in zip(*np.polynomial.legendre.leggauss(n_nodes), strict=True):
        at = float(point + 1) / 2
        probs, gradients = gradient_at(readout, start + at * (end - start), tokens)
        mean += share / 2 * probs
        gradient += share / 2 * weight(at) * gradients
    return mean, gradient
