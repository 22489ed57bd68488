"""Models that a user builds directly in TransformerLens, without Hugging Face.

They compute in float64: their large weights let rounding grow, in float32 by more than a thousand
units in the last place of a logit, differently on every processor.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch

from tests.support.families import D_VOCAB

_SIZES = {
    "d_model": 32,
    "d_head": 8,
    "n_heads": 4,
    "n_layers": 3,
    "n_ctx": 64,
    "d_vocab": D_VOCAB,
    "act_fn": "gelu",
    "seed": 0,
}


def native_bridge(**options: Any) -> Any:
    """Build a random native TransformerBridge."""
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    return _randomize(TransformerBridge.boot_native(TransformerBridgeConfig(**_SIZES | options)))


def native_hooked(**options: Any) -> Any:
    """Build a random HookedTransformer."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return _randomize(HookedTransformer(HookedTransformerConfig(**_SIZES | options)))


def _randomize(model: Any) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2:
                parameter.add_(0.3 * torch.randn_like(parameter))
            elif "embed" not in name:
                parameter.mul_(10.0)
            else:
                parameter.copy_(0.35 * torch.randn_like(parameter))
    return model.to(torch.float64)
