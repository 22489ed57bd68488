"""Let every forward pass round differently, as on a processor whose kernels do.

The order in which a kernel adds up depends on the processor, and on some of them on where a tensor
happens to lie in memory, so that the same model gives the same text other last digits in its next
pass. Here a quarter of each embedding, drawn anew, is off by one rounding, which reaches
all states. Half precision is left alone, because there one rounding of everything is much.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_GENERATOR = torch.Generator().manual_seed(0)


def round_differently_in_every_pass() -> None:
    """Replace the lookup of embeddings in this process, Hugging Face's and TransformerLens'."""
    F.embedding = _with_other_rounding(F.embedding)
    try:
        from transformer_lens.components import Embed
    except ImportError:  # TransformerLens 4 has bridges alone, over modules of Hugging Face
        return
    Embed.forward = _with_other_rounding(Embed.forward)


def _with_other_rounding(look_up: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def rounded(*args: Any, **options: Any) -> Tensor:
        found = look_up(*args, **options)
        if found.dtype not in (torch.float32, torch.float64):
            return found
        drawn = torch.randint(0, 8, found.shape, generator=_GENERATOR)
        steps = (drawn == 0).to(found) - (drawn == 1).to(found)
        return found * (1 + torch.finfo(found.dtype).eps * steps)

    return rounded
