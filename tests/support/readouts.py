"""Random readouts, evaluated plainly."""

from __future__ import annotations

import itertools

import torch

from iglens_tl.readout import FinalNorm, OutputTransform, Readout

NORMS = ("layer_norm", "rms_norm", "none")
TRANSFORMS = (OutputTransform(), OutputTransform(scale=0.7, softcap=5.0))
EVERY_READOUT = list(itertools.product(NORMS, TRANSFORMS, (False, True)))


def random_readout(
    norm: str = "rms_norm",
    transform: OutputTransform = TRANSFORMS[0],
    bias: bool = False,
    *,
    d_model: int = 24,
    d_vocab: int = 5000,
    dtype: torch.dtype = torch.float64,
) -> Readout:
    """Build a random readout with peaked predictions."""
    torch.manual_seed(0)
    weight, shift = torch.rand(d_model, dtype=dtype) + 0.5, torch.randn(d_model, dtype=dtype)
    final_norm = FinalNorm(norm == "layer_norm", 1e-5, weight, shift if bias else None)
    return Readout(
        torch.randn(d_model, d_vocab, dtype=dtype) * 0.5,
        torch.randn(d_vocab, dtype=dtype) if bias else None,
        None if norm == "none" else final_norm,
        transform,
        dtype,
    )
