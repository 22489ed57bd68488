"""From the outputs of attention heads to what the attention adds to the residual stream."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from iglens_tl.models.adapter import ModelAdapter, NotApplicableError
from iglens_tl.models.gains import accepted_error, fit_gain


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
    attention = adapter.model.blocks[layer].attn
    weight = attention.W_O.detach().to(z)
    if weight.shape[:2] != z.shape[1:]:
        # Latent attention (DeepSeek): TransformerLens cuts its heads at another width.
        raise NotApplicableError(
            f"{adapter.name}: the heads of layer {layer} have shape {tuple(z.shape[1:])} at their "
            f"hook but {tuple(weight.shape[:2])} in W_O, so its attention cannot be split over "
            "heads; split it over sublayers"
        )
    bias = attention.b_O
    bias = None if bias is None or not bool(bias.any()) else bias.detach().to(z)
    total = torch.einsum("rhd,hdm->rm", z, weight)
    total = total if bias is None else total + bias
    gain, error = fit_gain(adapter, layer, ("ln1_post", "ln1"), total, attn_out)
    accepted = accepted_error(adapter)
    if not error <= accepted:
        raise NotApplicableError(
            f"{adapter.name}: the heads of layer {layer} do not add up to its attention output "
            f"(they miss {error:.2g} of its size, accepted: {accepted:g}), so it cannot be split "
            "over heads; split it over sublayers"
        )
    return HeadOutputs(weight, bias, gain)
