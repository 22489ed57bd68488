"""The training loss KL(model ‖ lens) with its gradient, a few rows at a time.

With the model's probabilities p and the lens's logits z = T(x), log-normaliser L and probabilities
q, a row's loss is Σ p log p − Σ p z + L, and its gradient with respect to x is (q − p) ⊙ T′(x).
Both come from one product with W_U, and a second one takes the gradient back to the normalised
state. Nothing of the size of the vocabulary is kept for a backward pass.

Without a softcap, x = r W_U + b for a normalised state r. Then Σ p x = r · (W_U p) + b · p, and the
gradient at r is W_U q − W_U p: all that the layers need of p is W_U p, which is computed once. In
half precision q − p is taken first, because the two products would round differently.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iglens_tl.readout import Readout

SMALLEST_EXPONENT = -60.0
"""Exponents below a row's maximum are clamped here on a CPU: e^-60 is nothing beside a sum of at
least one, and neither it nor its products with W_U are denormal."""

# On a CPU a chunk of logits stays in cache while everything that is wanted of it is computed.
_CHUNK_BYTES = {"cpu": 8 * 2**20}
_CHUNK_BYTES_ON_ACCELERATORS = 512 * 2**20
_FEWEST_ROWS = 128


@dataclass(frozen=True)
class Target:
    """The model's predictions at some rows.

    Attributes:
        negative_entropies: `[row]`, Σ p log p.
        probs: `[row, d_vocab]`, p where a softcap or half precision makes it necessary, or None.
        directions: `[row, d_model]`, W_U p where that is enough, or None.
        bias: `[row]`, b · p beside `directions`; None without an unembedding bias.
    """

    negative_entropies: Float[Tensor, " row"]
    probs: Float[Tensor, "row d_vocab"] | None = None
    directions: Float[Tensor, "row d_model"] | None = None
    bias: Float[Tensor, " row"] | None = None


class DivergenceLoss:
    """KL divergence of the lens from the model, with gradients for normalised states.

    Memory beyond W_U is at most three tensors of `chunk_rows` × d_vocab entries. Where
    the products' precision is not the model's, W_U is converted once and kept.

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
        self.chunk_rows = max(_FEWEST_ROWS, budget // (readout.d_vocab * readout.dtype.itemsize))

    @torch.no_grad()
    def target(self, last_states: Float[Tensor, "row d_model"]) -> Target:
        """Return what the model predicts from its last states, with logits in full precision."""
        if self.half:
            logits = self.readout.logits(last_states)
        else:
            logits = self._logits(self.readout.normalize(last_states))
        probs, normalizers = _softmax(logits)
        negative_entropies = torch.einsum("rv,rv->r", probs, logits) - normalizers
        if self.half or self.readout.transform.softcap is not None:
            return Target(negative_entropies, probs)
        bias = None if self._bias is None else probs @ self._bias
        return Target(negative_entropies, None, self._back(probs), bias)

    def sum(self, states: Float[Tensor, "row d_model"], target: Target) -> Float[Tensor, ""]:
        """Return the sum over rows of KL(target ‖ readout of the states), in nats."""
        total: Any = _SummedDivergence.apply(self.readout.normalize(states), self, target)
        return total

    def value_and_gradient(
        self, rows: Float[Tensor, "row d_model"], target: Target
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "row d_model"]]:
        """Return the summed divergence and its gradient with respect to normalised rows."""
        transform = self.readout.transform
        logits = self._logits(rows)
        if target.directions is not None:
            crossed = torch.einsum("rd,rd->r", rows, target.directions)
            crossed = crossed if target.bias is None else crossed + target.bias
            crossed = crossed * transform.scale
            probs, normalizers = _softmax(logits)
            gradient = self._back(probs).sub_(target.directions)
        else:
            assert target.probs is not None
            crossed = torch.einsum("rv,rv->r", target.probs, logits)
            probs, normalizers = _softmax(logits)
            differences = probs.sub_(target.probs)
            if transform.softcap is not None:
                slopes = logits.div_(transform.softcap).square_().neg_().add_(1)
                differences.mul_(slopes)
            gradient = self._back(differences)
        total = (target.negative_entropies - crossed + normalizers).sum()
        return total, gradient.mul_(transform.scale)

    def _logits(self, rows: Tensor) -> Tensor:
        raw = (rows.to(self._unembed.dtype) @ self._unembed).to(rows.dtype)
        return self.readout.transform(raw if self._bias is None else raw.add_(self._bias))

    def _back(self, of_vocabulary: Tensor) -> Tensor:
        product = of_vocabulary.to(self._unembed.dtype) @ self._unembed.T
        return product.to(of_vocabulary.dtype)


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


def _softmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probabilities and log-normalisers of every row; small logits may be raised."""
    largest = logits.amax(1, keepdim=True)
    if logits.device.type == "cpu":
        # Denormal numbers would make a CPU a hundred times slower.
        smallest = largest + SMALLEST_EXPONENT
        if bool((logits.amin(1, keepdim=True) < smallest).any()):
            torch.maximum(logits, smallest, out=logits)
    probs = torch.softmax(logits, 1)
    return probs, largest[:, 0] - probs.amax(1).log()
