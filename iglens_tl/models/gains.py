"""What a model multiplies a sublayer's output with before adding it to the residual stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.models.readout_tensors import extract_norm

PARTS_TOLERANCE = 1e-4
"""Largest accepted difference between the sum of the parts of an output and that output, relative
to its largest entry."""
_HALF_PRECISION_TOLERANCE = 5e-2


def fit_gain(
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
        The gain with which `gain ⊙ total` comes closest to what is written, a norm with its
        statistics held fixed or a constant, and the relative error that is left.
    """
    block = adapter.model.blocks[layer]
    candidates = [
        (relative_error(gain * total, written), gain)
        for gain in _possible_gains(adapter, block, norms, total, written)
    ]
    error, gain = min(candidates, key=lambda candidate: candidate[0])
    return gain, error


def accepted_error(adapter: ModelAdapter) -> float:
    """Return by how much the parts of a model's outputs may miss them, relative to their size."""
    half = adapter.dtype in (torch.float16, torch.bfloat16)
    return _HALF_PRECISION_TOLERANCE if half else PARTS_TOLERANCE


def relative_error(estimate: Tensor, truth: Tensor) -> float:
    """Return the largest difference of two tensors, relative to the largest entry of the truth."""
    return ((estimate - truth).abs().max() / truth.abs().max().clamp_min(1e-30)).item()


def _possible_gains(
    adapter: ModelAdapter, block: Any, norms: Sequence[str], total: Tensor, written: Tensor
) -> Iterator[Tensor]:
    # Nearly always 1; Granite multiplies by a constant of its configuration.
    factor = (written * total).sum() / total.square().sum().clamp_min(1e-30)
    yield factor.expand_as(total)
    for name in norms:
        module = getattr(block, name, None)
        if isinstance(module, nn.Identity):
            continue
        norm = extract_norm(adapter.model, adapter.backend, module, total.dtype)
        if norm is None or norm.centered or norm.bias is not None:
            continue  # no model has a norm after a sublayer that is not a multiplication
        gain = norm.scale(total)[:, None].expand_as(total)
        yield gain if norm.weight is None else gain * norm.weight
