"""The training loss KL(model ‖ lens) with its gradient, a few rows at a time.

With the model's probabilities p and the lens's logits z = T(x), log-normaliser L and probabilities
q, a row's loss is Σ p log p − Σ p z + L, and its gradient with respect to x is (q − p) ⊙ T′(x).
Both come from one product with W_U, and a second one takes the gradient back to the normalised
state.
Nothing of the size of the vocabulary is kept for a backward pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iglens_tl.readout import Readout
from iglens_tl.readout.tiles import SMALLEST_EXPONENT

_CHUNK_BYTES = {"cpu": 32 * 2**20}
_CHUNK_BYTES_ON_ACCELERATORS = 512 * 2**20


@dataclass(frozen=True)
class Target:
    """What the model predicts at some rows.

    Attributes:
        probs: `[row, d_vocab]`, p.
        negative_entropies: `[row]`, Σ p log p.
    """

    probs: Float[Tensor, "row d_vocab"]
    negative_entropies: Float[Tensor, " row"]


class DivergenceLoss:
    """KL divergence of the lens from the model, with gradients for normalised states.

    Memory beyond W_U is three tensors of `chunk_rows` × d_vocab entries (four with a softcap).
    Where the model has another precision than its readout, W_U is converted once and kept.

    Attributes:
        readout: The model's readout.
        chunk_rows: How many rows may be given at once.
        half: Whether products with W_U are computed in bfloat16, as mixed precision on a GPU.
    """

    def __init__(self, readout: Readout, *, half: bool = False) -> None:
        self.readout = readout
        self.half = half
        self._unembed = readout.unembed.to(torch.bfloat16 if half else readout.dtype)
        self._bias = readout.bias_columns(0, readout.d_vocab)
        budget = _CHUNK_BYTES.get(readout.device.type, _CHUNK_BYTES_ON_ACCELERATORS)
        self.chunk_rows = max(64, budget // (readout.d_vocab * readout.dtype.itemsize))

    @torch.no_grad()
    def target(self, last_states: Float[Tensor, "row d_model"]) -> Target:
        """Return what the model predicts from its last states, never in half precision."""
        if self.half:
            logits = self.readout.logits(last_states)
        else:
            logits = self._logits(self.readout.normalize(last_states))
        weights, normalizers = _exponentials(logits)
        probs = weights.div_(weights.sum(1, keepdim=True))
        negative_entropies = torch.einsum("rv,rv->r", probs, logits) - normalizers
        return Target(probs, negative_entropies)

    def sum(self, states: Float[Tensor, "row d_model"], target: Target) -> Float[Tensor, ""]:
        """Return the sum over rows of KL(target ‖ readout of the states), in nats."""
        total: Any = _SummedDivergence.apply(self.readout.normalize(states), self, target)
        return total

    def value_and_gradient(
        self, rows: Float[Tensor, "row d_model"], target: Target
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "row d_model"]]:
        """Return the summed divergence and its gradient with respect to normalised rows."""
        logits = self._logits(rows)
        softcap = self.readout.transform.softcap
        slopes = None if softcap is None else 1 - (logits / softcap).square_()
        crossed = torch.einsum("rv,rv->r", target.probs, logits)
        weights, normalizers = _exponentials(logits)
        total = (target.negative_entropies - crossed + normalizers).sum()
        gradient = weights.div_(weights.sum(1, keepdim=True)).sub_(target.probs)
        if slopes is not None:
            gradient.mul_(slopes)
        back = gradient.to(self._unembed.dtype) @ self._unembed.T
        return total, back.to(rows.dtype).mul_(self.readout.transform.scale)

    def _logits(self, rows: Tensor) -> Tensor:
        raw = (rows.to(self._unembed.dtype) @ self._unembed).to(rows.dtype)
        return self.readout.transform(raw if self._bias is None else raw.add_(self._bias))


class _SummedDivergence(torch.autograd.Function):
    """Computes the gradient together with the value, while the logits are there."""

    @staticmethod
    def forward(ctx: Any, rows: Any, loss: Any, target: Any) -> Any:
        total, gradient = loss.value_and_gradient(rows, target)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Any) -> Any:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0], None, None


def _exponentials(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return e^(logit − maximum) and the log-normalisers of every row."""
    maximum = logits.amax(1, keepdim=True)
    # Denormal numbers would make a CPU a hundred times slower.
    weights = (logits - maximum).clamp_min_(SMALLEST_EXPONENT).exp_()
    return weights, weights.sum(1).log() + maximum[:, 0]
