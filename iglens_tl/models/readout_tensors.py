"""Taking the final norm, unembedding and output transform out of a TransformerLens model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from iglens_tl.readout.readout import FinalNorm, OutputTransform, Readout


def extract_readout(model: Any, backend: str) -> Readout:
    """Collect a model's readout, folded or not.

    The unembedding stays a view of the model's own tensor, so that large vocabularies are not
    copied. `iglens_tl.models.checks` compares the result with the model's own probabilities.

    Raises:
        ValueError: If the model's output transform is no scale followed by a tanh softcap.
    """
    unembed = model.W_U.detach()
    dtype = torch.float64 if unembed.dtype == torch.float64 else torch.float32
    bias = model.b_U.detach()
    return Readout(
        unembed=unembed,
        # The bridge gives zeros where a model has no bias; adding those would cost a pass.
        unembed_bias=bias if bool(bias.any()) else None,
        norm=extract_norm(model, backend, getattr(model, "ln_final", None), dtype),
        transform=_output_transform(model, backend),
        dtype=dtype,
    )


def extract_norm(model: Any, backend: str, norm: Any, dtype: torch.dtype) -> FinalNorm | None:
    """Return one of a model's norm modules as tensors, or None for a missing or idle one."""
    if norm is None:
        return None
    return _bridge_norm(model, norm, dtype) if backend == "bridge" else _hooked_norm(norm, dtype)


def _hooked_norm(norm: Any, dtype: torch.dtype) -> FinalNorm:
    return FinalNorm(
        centered=not type(norm).__name__.startswith("RMS"),
        eps=float(norm.eps),
        weight=_tensor(getattr(norm, "w", None), dtype),
        bias=_tensor(getattr(norm, "b", None), dtype),
    )


def _bridge_norm(model: Any, norm: Any, dtype: torch.dtype) -> FinalNorm | None:
    component = getattr(norm, "original_component", None)
    component = norm if component is None else component
    if isinstance(component, nn.Identity) or model.cfg.normalization_type is None:
        return None
    rms = bool(norm.uses_rms_norm)
    weight = _tensor(getattr(component, "weight", None), dtype)
    # Gemma stores its gain as a difference from one. TransformerLens 4 says so on the norm,
    # version 3 in the configuration.
    offset = getattr(
        norm, "uses_weight_offset", rms and getattr(model.cfg, "rmsnorm_uses_offset", False)
    )
    if offset and weight is not None:
        weight = 1 + weight
    return FinalNorm(
        centered=not rms,
        eps=_bridge_eps(model, norm, component),
        weight=weight,
        bias=_tensor(getattr(component, "bias", None), dtype),
    )


def _bridge_eps(model: Any, norm: Any, component: Any) -> float:
    uses_component = getattr(norm, "use_native_layernorm_autograd", True) or getattr(
        model.cfg, "layer_norm_folding", False
    )
    if uses_component:
        for attribute in ("eps", "variance_epsilon"):
            if getattr(component, attribute, None) is not None:
                return float(getattr(component, attribute))
    return float(model.cfg.eps)


def _tensor(parameter: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return None if parameter is None else parameter.detach().to(dtype)


def _output_transform(model: Any, backend: str) -> OutputTransform:
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
        raise ValueError(
            f"{getattr(model.cfg, 'model_name', 'this model')} transforms its logits in a way that "
            "iglens_tl does not know; known are a scale (Cohere, Granite) and a tanh softcap "
            "(Gemma 2)"
        )
    return transform
