"""The tuned lens's loss by torch's own operations, to compare with."""

from __future__ import annotations

import torch
from torch.nn import functional

from iglens_tl.readout import Readout


def plain_divergence(readout: Readout, states: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """Compute mean KL(model ‖ lens) by torch's own operations."""

    def logits(h: torch.Tensor) -> torch.Tensor:
        norm = readout.norm
        if norm is not None:
            h = h - h.mean(-1, keepdim=True) if norm.centered else h
            h = h / (h.square().mean(-1, keepdim=True) + norm.eps).sqrt()
            h = h if norm.weight is None else h * norm.weight
            h = h if norm.bias is None else h + norm.bias
        x = h @ readout.unembed
        x = x if readout.unembed_bias is None else x + readout.unembed_bias
        x = x * readout.transform.scale
        cap = readout.transform.softcap
        return x if cap is None else cap * torch.tanh(x / cap)

    target = logits(last).detach().log_softmax(-1)
    return functional.kl_div(
        logits(states).log_softmax(-1), target, log_target=True, reduction="batchmean"
    )
