"""Take the final norm, unembedding and output transform out of a TransformerLens model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from iglens_tl.models.refusals import architecture_of, refuse_architecture
from iglens_tl.readout.readout import FinalNorm, OutputTransform, Readout

_NORM_TOLERANCE = 1e-3
_HALF_PRECISION_TOLERANCE = 3e-2


def extract_readout(model: Any, backend: str, name: str) -> Readout:
    """Collect a model's readout, folded or not.

    The unembedding stays a view of the model's own tensor, so that large vocabularies are not
    copied. `iglens_tl.models.checks` compares the result with the model's own probabilities.

    Args:
        model: The TransformerLens model.
        backend: "hooked" or "bridge".
        name: The model's name, for messages.

    Raises:
        ValueError: If the final norm is neither a layer norm nor an RMS norm, or if the output
            transform is no scale followed by a tanh softcap.
    """
    unembed = model.W_U.detach()
    dtype = torch.float64 if unembed.dtype == torch.float64 else torch.float32
    bias = model.b_U.detach()
    module = getattr(model, "ln_final", None)
    norm = extract_norm(model, backend, module, dtype)
    if norm is None and not _is_idle(model, module):
        kind = type(_wrapped(module)).__name__
        raise refuse_architecture(
            name,
            architecture_of(model),
            f"its final norm ({kind}) is neither a layer norm nor an RMS norm with a weight and a "
            "bias, so states cannot be read out as the model does it",
        )
    return Readout(
        unembed=unembed,
        # The bridge gives zeros where a model has no bias; adding those would cost a pass.
        unembed_bias=bias if bool(bias.any()) else None,
        norm=norm,
        transform=_output_transform(model, backend, name),
        dtype=dtype,
    )


def extract_norm(model: Any, backend: str, module: Any, dtype: torch.dtype) -> FinalNorm | None:
    """Return one of a model's norm modules as tensors.

    Returns:
        The norm; None for a missing module, one that does nothing, and one that computes anything
        but a layer norm or RMS norm.
    """
    if _is_idle(model, module):
        return None
    return (
        _hooked_norm(module, dtype) if backend == "hooked" else _bridge_norm(model, module, dtype)
    )


def _is_idle(model: Any, module: Any) -> bool:
    """Tell whether nothing is computed in a norm's place."""
    missing = module is None or isinstance(_wrapped(module), nn.Identity)
    return missing or model.cfg.normalization_type is None


def _wrapped(module: Any) -> Any:
    """Return the Hugging Face module that a bridge calls, or the module itself."""
    component = getattr(module, "original_component", None)
    return module if component is None else component


def _hooked_norm(module: Any, dtype: torch.dtype) -> FinalNorm:
    return FinalNorm(
        centered=not type(module).__name__.startswith("RMS"),
        eps=float(module.eps),
        weight=_tensor(getattr(module, "w", None), dtype),
        bias=_tensor(getattr(module, "b", None), dtype),
    )


def _bridge_norm(model: Any, module: Any, dtype: torch.dtype) -> FinalNorm | None:
    """Return the formula that computes what the norm itself computes.

    Whether states are centred, and whether the weight is stored as its difference from one (Gemma,
    Nemotron), is neither a matter of names nor always told by TransformerLens.
    """
    component, eps = _wrapped(module), _bridge_eps(model, module)
    weight = _tensor(getattr(component, "weight", None), dtype)
    bias = _tensor(getattr(component, "bias", None), dtype)
    probe = _probe(int(model.cfg.d_model) if weight is None else weight.numel(), component)
    with torch.no_grad():
        # The class's forward, because hooks and a forward of the user's on the module belong to
        # the run, which is compared with the readout as a whole.
        truth = type(component).forward(component, probe)
        candidates = [
            (_relative_error(norm(probe.to(dtype)), truth.to(dtype)), norm)
            for norm in _possible_norms(eps, weight, bias)
        ]
    error, norm = min(candidates, key=lambda candidate: candidate[0])
    half = probe.dtype in (torch.float16, torch.bfloat16)
    return norm if error <= (_HALF_PRECISION_TOLERANCE if half else _NORM_TOLERANCE) else None


def _possible_norms(eps: float, weight: Tensor | None, bias: Tensor | None) -> Iterator[FinalNorm]:
    for centered in (False, True):
        for scale in [weight] if weight is None else [weight, 1 + weight]:
            yield FinalNorm(centered=centered, eps=eps, weight=scale, bias=bias)


def _probe(d_model: int, component: Any) -> Tensor:
    """Return states that every kind of norm maps to something else, in the norm's precision."""
    states = torch.sin(torch.arange(2 * d_model, dtype=torch.float32) ** 1.5).view(2, d_model) + 0.5
    own = next(component.parameters(), None)
    return states if own is None else states.to(own)


def _bridge_eps(model: Any, module: Any) -> float:
    uses_component = getattr(module, "use_native_layernorm_autograd", True) or getattr(
        model.cfg, "layer_norm_folding", False
    )
    if uses_component:
        for attribute in ("eps", "variance_epsilon"):
            if getattr(_wrapped(module), attribute, None) is not None:
                return float(getattr(_wrapped(module), attribute))
    return float(model.cfg.eps)


def _relative_error(estimate: Tensor, truth: Tensor) -> float:
    return ((estimate - truth).abs().max() / truth.abs().max().clamp_min(1e-30)).item()


def _tensor(parameter: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if parameter is None else parameter.detach().to(dtype)


def _output_transform(model: Any, backend: str, name: str) -> OutputTransform:
    softcap = getattr(model.cfg, "output_logits_soft_cap", None)
    softcap = float(softcap) if softcap and softcap > 0 else None
    if backend == "hooked":
        return OutputTransform(softcap=softcap)
    apply = model.adapter.apply_output_logits_transform
    probe = torch.tensor([-40.0, -3.0, 1e-6, 0.5, 7.0, 25.0], dtype=torch.float64)
    # Near zero a softcap does nothing, so the ratio there is the scale.
    scale = round(float(apply(probe[2:3].clone())) / float(probe[2]), 9)
    transform = OutputTransform(scale=scale, softcap=softcap)
    if not torch.allclose(apply(probe.clone()), transform(probe), rtol=1e-6, atol=1e-9):
        raise refuse_architecture(
            name,
            architecture_of(model),
            "it transforms its logits in a way that iglens_tl does not know, neither by a scale "
            "(Cohere, Granite) nor by a tanh softcap (Gemma 2)",
        )
    return transform
