"""Split what an embedding, an attention or an MLP adds to the residual stream into its parts.

The embedding is a sum over tokens and positions, an attention a sum over its heads and they a sum
over the positions that they read, an MLP a sum over its neurons. Every split is compared with the
whole, so that a model whose parts do not add up is refused and never split wrongly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iglens_tl.models.adapter import ModelAdapter, NotApplicableError
from iglens_tl.models.readout_tensors import extract_norm

PARTS_TOLERANCE = 1e-4
"""Largest accepted difference between the sum of the parts of an output and that output, relative
to its largest entry."""

_HALF_PRECISION_TOLERANCE = 5e-2
_NORMS_AFTER_ATTENTION = ("ln1_post", "ln1")
_NORMS_AFTER_MLP = ("ln2_post", "ln2")


@dataclass(frozen=True)
class HeadOutputs:
    """One layer's attention as a sum over its heads: `scale ⊙ (Σ_head z_head · W_O + b_O)`.

    Attributes:
        weight: W_O.
        bias: b_O, or None.
        scale: What the model multiplies the attention's output with before adding it to the
            stream: a norm with its statistics held fixed (Gemma, OLMo2), a constant (Granite), or
            ones.
    """

    weight: Float[Tensor, "head d_head d_model"]
    bias: Float[Tensor, " d_model"] | None
    scale: Float[Tensor, "row d_model"]


@dataclass(frozen=True)
class NeuronOutputs:
    """One layer's MLP as a sum over its neurons: `scale ⊙ (activations · W_out + b_out)`.

    Attributes:
        weight: W_out; neuron n writes its activation times row n.
        bias: b_out, or None.
        scale: What the model multiplies the MLP's output with before adding it to the stream: a
            norm with its statistics held fixed (Gemma, OLMo2), a constant (Granite), or ones.
    """

    weight: Float[Tensor, "d_mlp d_model"]
    bias: Float[Tensor, " d_model"] | None
    scale: Float[Tensor, "row d_model"]


def embedding_sites(adapter: ModelAdapter) -> tuple[tuple[str, str], ...]:
    """Return labels and hooks of what adds up to the embedding state, the first block's input.

    A model that learns an embedding of positions (GPT-2, GPT-Neo, OPT) adds it to that of the
    tokens. All others have one part, which is the state itself, so that what a model does to the
    embedding of its tokens is included: Gemma's and Granite's scales, BLOOM's norm, the sinusoids
    of XGLM. No known family leaves a remainder, only hooks of the user that edit the state.

    Args:
        adapter: The model.
    """
    model = adapter.model
    # The hook also exists, and never fires or fires with something that enters the attention only,
    # in HookedTransformers with other kinds of positions (ALiBi, shortformer).
    adds_positions = getattr(model.cfg, "positional_embedding_type", None) == "standard"
    if adds_positions and "hook_pos_embed" in adapter.hook_points:
        return (("embed", "hook_embed"), ("pos_embed", "hook_pos_embed"))
    return (("embed", adapter.embed_site),)


def split_heads(
    adapter: ModelAdapter,
    layer: int,
    z: Float[Tensor, "row head d_head"],
    attn_out: Float[Tensor, "row d_model"],
) -> HeadOutputs:
    """Find out how a layer's heads add up to its attention output.

    Args:
        adapter: The model.
        layer: The block.
        z: What the heads pass to W_O (`attn.hook_z`).
        attn_out: What the attention adds to the stream (`hook_attn_out`).

    Raises:
        NotApplicableError: If the heads do not add up to the output.
    """
    attention = adapter.model.blocks[layer].attn
    weight = attention.W_O.detach().to(z)
    if weight.shape[:2] != z.shape[1:]:
        # Latent attention (DeepSeek): TransformerLens cuts its heads at another width.
        raise NotApplicableError(
            f"{adapter.name}: the heads of layer {layer} have shape {tuple(z.shape[1:])} at their "
            f"hook but {tuple(weight.shape[:2])} in W_O, so its attention cannot be split over "
            "heads; split it over sublayers"
        )
    bias = _bias(attention.b_O, z)
    total = torch.einsum("rhd,hdm->rm", z, weight)
    total = total if bias is None else total + bias
    scale, error = _fit_scale(adapter, layer, _NORMS_AFTER_ATTENTION, total, attn_out)
    if not error <= _tolerance(adapter):
        raise NotApplicableError(
            f"{adapter.name}: the heads of layer {layer} do not add up to its attention output "
            f"(they miss {error:.2g} of its size, accepted: {_tolerance(adapter):g}), so it cannot "
            "be split over heads; split it over sublayers"
        )
    return HeadOutputs(weight, bias, scale)


def head_values(
    adapter: ModelAdapter,
    layer: int,
    values: Float[Tensor, "pos *heads width"],
    pattern: Float[Tensor, "row head pos"],
    z: Float[Tensor, "row head d_head"],
) -> Float[Tensor, "pos head d_head"]:
    """Return what each head can read at each position of one text.

    A head passes on `z = Σ_pos pattern[head, pos] · values[pos, head]`, so the term of one position
    is what the head read there. The sum is compared with z.

    Args:
        adapter: The model.
        layer: The block.
        values: `attn.hook_v` of one text at all its positions, of all heads or of the groups of
            heads that share their values; the last two axes may be flattened.
        pattern: `attn.hook_pattern` of the same text at the queries that are read.
        z: `attn.hook_z` at the same queries.

    Raises:
        NotApplicableError: If the values, weighted by the pattern, do not add up to z.
    """
    n_heads, d_head = z.shape[1:]
    width = values.shape[1:].numel()
    n_groups = width // d_head
    if n_groups == 0 or width % d_head or n_heads % n_groups:
        raise NotApplicableError(
            f"{adapter.name}: the values of layer {layer} have shape {tuple(values.shape[1:])} at "
            f"each position, which {n_heads} heads of width {d_head} cannot share, so heads "
            "cannot be split over source tokens; split the layer over heads (by='head')"
        )
    # Neighbouring heads share a group in every model with grouped queries.
    of_heads = values.reshape(-1, n_groups, d_head).repeat_interleave(n_heads // n_groups, dim=1)
    error = _relative_error(torch.einsum("rhp,phd->rhd", pattern, of_heads), z)
    if not error <= _tolerance(adapter):
        raise NotApplicableError(
            f"{adapter.name}: what the heads of layer {layer} read at each position does not add "
            f"up to what they pass on (it misses {error:.2g} of its size, accepted: "
            f"{_tolerance(adapter):g}): this attention does more than weigh values by its pattern, "
            "or a hook of yours edits its output. Split the layer over heads (by='head')"
        )
    return of_heads


def split_neurons(
    adapter: ModelAdapter,
    layer: int,
    activations: Float[Tensor, "row d_mlp"],
    mlp_out: Float[Tensor, "row d_model"],
) -> NeuronOutputs:
    """Find out how a layer's neurons add up to its MLP output.

    Args:
        adapter: The model.
        layer: The block.
        activations: What the neurons pass to W_out, after any gating (`mlp.hook_post`).
        mlp_out: What the MLP adds to the stream (`hook_mlp_out`).

    Raises:
        NotApplicableError: If the neurons do not add up to the output.
    """
    mlp = adapter.model.blocks[layer].mlp
    weight = mlp.W_out.detach().to(activations)
    bias = _bias(getattr(mlp, "b_out", None), activations)
    total = activations @ weight
    total = total if bias is None else total + bias
    scale, error = _fit_scale(adapter, layer, _NORMS_AFTER_MLP, total, mlp_out)
    if not error <= _tolerance(adapter):
        raise NotApplicableError(
            f"{adapter.name}: the neurons of layer {layer} do not add up to its MLP output (they "
            f"miss {error:.2g} of its size, accepted: {_tolerance(adapter):g}), so it cannot be "
            "split over neurons; split it over sublayers (by='sublayer')"
        )
    return NeuronOutputs(weight, bias, scale)


def _fit_scale(
    adapter: ModelAdapter,
    layer: int,
    norms: Sequence[str],
    total: Float[Tensor, "row d_model"],
    written: Float[Tensor, "row d_model"],
) -> tuple[Float[Tensor, "row d_model"], float]:
    """Find what stands between a sublayer and the stream.

    TransformerLens names norms by their place in the original code, so that a norm after the
    attention is `ln1_post` in Gemma's blocks but `ln1` in OLMo2's. The one that fits is taken.

    Args:
        adapter: The model.
        layer: The block.
        norms: Names of the block's norms that may stand after the sublayer.
        total: What the sublayer computes.
        written: What it adds to the stream.

    Returns:
        The scale with which `scale ⊙ total` comes closest to what is written, a norm with its
        statistics held fixed or a constant, and the relative error that is left.
    """
    candidates = [
        (_relative_error(scale * total, written), scale)
        for scale in _possible_scales(adapter, layer, norms, total, written)
    ]
    error, scale = min(candidates, key=lambda candidate: candidate[0])
    return scale, error


def _possible_scales(
    adapter: ModelAdapter, layer: int, norms: Sequence[str], total: Tensor, written: Tensor
) -> Iterator[Tensor]:
    # Nearly always 1; Granite multiplies by a constant of its configuration.
    factor = (written * total).sum() / total.square().sum().clamp_min(1e-30)
    yield factor.expand_as(total)
    for name in norms:
        module = getattr(adapter.model.blocks[layer], name, None)
        norm = extract_norm(adapter.model, adapter.backend, module, total.dtype)
        if norm is None or norm.centered or norm.bias is not None:
            continue  # no model has a norm after a sublayer that is not a multiplication
        scale = norm.scale(total)[:, None].expand_as(total)
        yield scale if norm.weight is None else scale * norm.weight


def _bias(bias: Tensor | None, like: Tensor) -> Tensor | None:
    # The bridge gives zeros where a model has no bias.
    return None if bias is None or not bool(bias.any()) else bias.detach().to(like)


def _tolerance(adapter: ModelAdapter) -> float:
    half = adapter.dtype in (torch.float16, torch.bfloat16)
    return _HALF_PRECISION_TOLERANCE if half else PARTS_TOLERANCE


def _relative_error(estimate: Tensor, truth: Tensor) -> float:
    return ((estimate - truth).abs().max() / truth.abs().max().clamp_min(1e-30)).item()
