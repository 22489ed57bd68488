"""The readout of single tokens as a linear map, in float64.

With s(h) of one state h held fixed, the raw logit of a token, scaled but not yet softcapped, is
`s · c · direction` summed over any parts c of h, plus a share of the norm's bias and one of the
unembedding's. Nothing here has the size of the vocabulary.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iglens_tl.readout.readout import Readout


def token_directions(
    readout: Readout, token_ids: Int[Tensor, " target"]
) -> Float[Tensor, "target d_model"]:
    """Return C (γ ⊙ W_U[:, t]) for each token, the logit scale included."""
    columns = _columns(readout, token_ids)
    if readout.norm is None:
        return columns
    weight = readout.norm.weight
    # C is symmetric, so that centring the direction spares centring every part of the state.
    return readout.norm.center(columns if weight is None else columns * weight.double())


def inverse_norms(readout: Readout, states: Float[Tensor, "row d_model"]) -> Float[Tensor, " row"]:
    """Return s(h) of each state, 1 without a final norm."""
    if readout.norm is None:
        return torch.ones(len(states), dtype=torch.float64, device=states.device)
    return readout.norm.scale(states.double())


def norm_bias_logits(
    readout: Readout, token_ids: Int[Tensor, " target"]
) -> Float[Tensor, " target"]:
    """Return β · W_U[:, t], the share of the norm's bias."""
    if readout.norm is None or readout.norm.bias is None:
        return torch.zeros(len(token_ids), dtype=torch.float64, device=readout.device)
    return _columns(readout, token_ids) @ readout.norm.bias.double()


def unembed_bias_logits(
    readout: Readout, token_ids: Int[Tensor, " target"]
) -> Float[Tensor, " target"]:
    """Return b_U[t], the share of the unembedding's bias."""
    if readout.unembed_bias is None:
        return torch.zeros(len(token_ids), dtype=torch.float64, device=readout.device)
    return readout.unembed_bias[token_ids.to(readout.device)].double() * readout.transform.scale


def raw_logits(
    readout: Readout, states: Float[Tensor, "target d_model"], token_ids: Int[Tensor, " target"]
) -> Float[Tensor, " target"]:
    """Return the logit of one token for each state, before the softcap."""
    normalized = readout.normalize(states).double()
    product = (normalized * _columns(readout, token_ids)).sum(1)
    return product + unembed_bias_logits(readout, token_ids)


def _columns(readout: Readout, token_ids: Tensor) -> Tensor:
    columns = readout.unembed[:, token_ids.to(readout.device)].T
    return columns.double() * readout.transform.scale
