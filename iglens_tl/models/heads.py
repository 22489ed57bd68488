"""From the outputs of attention heads to what the attention adds to the residual stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iglens_tl.models.adapter import ModelAdapter, NotApplicableError
from iglens_tl.models.readout_tensors import extract_norm

HEADS_TOLERANCE = 1e-4
"""Largest accepted difference between the sum of the heads and the attention's output, relative to
the largest entry of that output."""
_HALF_PRECISION_TOLERANCE = 5e-2


@dataclass(frozen=True)
class HeadOutputs:
    """One layer's attention as a sum over its heads: `gain ⊙ (Σ_head z_head · W_O + b_O)`.

    Attributes:
        weight: W_O.
        bias: b_O, or None.
        gain: What the model multiplies the attention's output with before adding it to the stream:
            a norm with its statistics held fixed (Gemma, OLMo2), a constant (Granite), or ones.
    """

    weight: Float[Tensor, "head d_head d_model"]
    bias: Float[Tensor, " d_model"] | None
    gain: Float[Tensor, "row d_model"]


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
    block = adapter.model.blocks[layer]
    weight = block.attn.W_O.detach().to(z)
    bias = block.attn.b_O
    bias = None if bias is None or not bool(bias.any()) else bias.detach().to(z)
    total = torch.einsum("rhd,hdm->rm", z, weight)
    total = total if bias is None else total + bias
    candidates = [
        (_relative_error(gain * total, attn_out), gain)
        for gain in _possible_gains(adapter, block, total, attn_out)
    ]
    error, gain = min(candidates, key=lambda candidate: candidate[0])
    half = adapter.dtype in (torch.float16, torch.bfloat16)
    accepted = _HALF_PRECISION_TOLERANCE if half else HEADS_TOLERANCE
    if not error <= accepted:
        raise NotApplicableError(
            f"{adapter.name}: the heads of layer {layer} do not add up to its attention output "
            f"(they miss {error:.2g} of its size, accepted: {accepted:g}), so it cannot be split "
            "over heads; split it over sublayers"
        )
    return HeadOutputs(weight, bias, gain)


def _possible_gains(
    adapter: ModelAdapter, block: Any, total: Tensor, attn_out: Tensor
) -> Iterator[Tensor]:
    """Yield what may stand between the attention and the stream.

    TransformerLens names norms by their place in the original code, so that a norm after the
    attention is `ln1_post` in Gemma's blocks but `ln1` in OLMo2's; the right one fits.
    """
    # Nearly always 1; Granite multiplies by a constant of its configuration.
    factor = (attn_out * total).sum() / total.square().sum().clamp_min(1e-30)
    yield factor.expand_as(total)
    for name in ("ln1_post", "ln1"):
        module = getattr(block, name, None)
        norm = extract_norm(adapter.model, adapter.backend, module, total.dtype)
        if norm is None or norm.centered or norm.bias is not None:
            continue  # no model has a norm after its attention that is not a multiplication
        gain = norm.scale(total)[:, None].expand_as(total)
        yield gain if norm.weight is None else gain * norm.weight


def _relative_error(estimate: Tensor, truth: Tensor) -> float:
    return ((estimate - truth).abs().max() / truth.abs().max().clamp_min(1e-30)).item()
