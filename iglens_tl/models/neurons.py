"""From the activations of MLP neurons to what the MLP adds to the residual stream."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from iglens_tl.models.adapter import ModelAdapter, NotApplicableError
from iglens_tl.models.gains import accepted_error, fit_gain


@dataclass(frozen=True)
class NeuronOutputs:
    """One layer's MLP as a sum over its neurons: `gain ⊙ (activations · W_out + b_out)`.

    Attributes:
        weight: W_out; neuron n writes its activation times row n.
        bias: b_out, or None.
        gain: What the model multiplies the MLP's output with before adding it to the stream: a
            norm with its statistics held fixed (Gemma, OLMo2), a constant (Granite), or ones.
    """

    weight: Float[Tensor, "d_mlp d_model"]
    bias: Float[Tensor, " d_model"] | None
    gain: Float[Tensor, "row d_model"]


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
    bias = getattr(mlp, "b_out", None)
    bias = None if bias is None or not bool(bias.any()) else bias.detach().to(activations)
    total = activations @ weight
    total = total if bias is None else total + bias
    gain, error = fit_gain(adapter, layer, ("ln2_post", "ln2"), total, mlp_out)
    accepted = accepted_error(adapter)
    if not error <= accepted:
        raise NotApplicableError(
            f"{adapter.name}: the neurons of layer {layer} do not add up to its MLP output (they "
            f"miss {error:.2g} of its size, accepted: {accepted:g}), so it cannot be split over "
            "neurons; split it over sublayers (by='sublayer')"
        )
    return NeuronOutputs(weight, bias, gain)
