"""From what attention heads read at every position to what they pass on."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from iglens_tl.models.adapter import ModelAdapter, NotApplicableError
from iglens_tl.models.gains import accepted_error, relative_error


def head_values(
    adapter: ModelAdapter,
    layer: int,
    values: Float[Tensor, "pos *heads width"],
    pattern: Float[Tensor, "row head pos"],
    z: Float[Tensor, "row head d_head"],
) -> Float[Tensor, "pos head d_head"]:
    """Return what each head can read at each position of one text.

    A head passes on `z = Σ_pos pattern[head, pos] · values[pos, head]`, so the term of one position
    is what the head read there. The sum is compared with z.

    Args:
        adapter: The model.
        layer: The block.
        values: `attn.hook_v` of one text at all its positions, of all heads or of the groups of
            heads that share their values; the last two axes may be flattened.
        pattern: `attn.hook_pattern` of the same text at the queries that are read.
        z: `attn.hook_z` at the same queries.

    Raises:
        NotApplicableError: If the values, weighted by the pattern, do not add up to z.
    """
    n_heads, d_head = z.shape[1:]
    width = values.shape[1:].numel()
    n_groups = width // d_head
    if n_groups == 0 or width % d_head or n_heads % n_groups:
        raise NotApplicableError(
            f"{adapter.name}: the values of layer {layer} have shape {tuple(values.shape[1:])} at "
            f"each position, which {n_heads} heads of width {d_head} cannot share, so heads "
            "cannot be split over source tokens; split the layer over heads (by='head')"
        )
    # Neighbouring heads share a group in every model with grouped queries.
    of_heads = values.reshape(-1, n_groups, d_head).repeat_interleave(n_heads // n_groups, dim=1)
    error = relative_error(torch.einsum("rhp,phd->rhd", pattern, of_heads), z)
    accepted = accepted_error(adapter)
    if not error <= accepted:
        raise NotApplicableError(
            f"{adapter.name}: what the heads of layer {layer} read at each position does not add "
            f"up to what they pass on (it misses {error:.2g} of its size, accepted: {accepted:g}): "
            "this attention does more than weigh values by its pattern, or a hook of yours edits "
            "its output. Split the layer over heads (by='head')"
        )
    return of_heads
