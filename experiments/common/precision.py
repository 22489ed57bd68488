"""Compute in float64 what a model computes in float32."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from iglens_tl.readout import Readout


def in_float64(readout: Readout) -> Readout:
    """Return the same readout in float64."""
    norm = readout.norm
    if norm is not None:
        norm = replace(norm, weight=_double(norm.weight), bias=_double(norm.bias))
    return replace(
        readout,
        unembed=readout.unembed.double(),
        unembed_bias=_double(readout.unembed_bias),
        norm=norm,
        dtype=torch.float64,
    )


def _double(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.double()
