"""Backward passes at full speed where gradients of logits are tiny."""

from __future__ import annotations

import torch
from torch import Tensor


def without_denormals(gradient: Tensor) -> Tensor:
    """Set denormal numbers to zero; a hook of tensors.

    On a CPU they make single backward products thirty times slower.
    """
    return gradient.masked_fill(gradient.abs() < torch.finfo(gradient.dtype).tiny, 0)
