"""The way from a residual state to logits, as plain tensors.

For a state h and a token v the logit is `T(s(h) · (γ ⊙ C h) · W_U[:, v] + β · W_U[:, v] + b_U[v])`:
C subtracts the mean (LayerNorm) or does nothing (RMSNorm), `s = 1 / sqrt(mean((C h)²) + eps)`, and
T is the model's output transform (a scale, then an optional tanh softcap). Keeping the parts as
tensors, and not as the model's modules, lets the lenses evaluate them along paths, in float64 and
in vocabulary tiles, and lets tests compare them with the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_COLUMNS_CONVERTED_AT_ONCE = 16_384


@dataclass(frozen=True)
class FinalNorm:
    """The normalisation before the unembedding.

    Attributes:
        centered: Whether the mean is subtracted first (LayerNorm) or not (RMSNorm).
        eps: The constant added to the mean square.
        weight: γ, or None where it was folded into the unembedding.
        bias: β, or None.
    """

    centered: bool
    eps: float
    weight: Float[Tensor, " d_model"] | None = None
    bias: Float[Tensor, " d_model"] | None = None

    def center(self, states: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Return C h."""
        return states - states.mean(-1, keepdim=True) if self.centered else states

    def direction(self, states: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Return γ ⊙ C h, the part of the norm that is linear in the state."""
        centered = self.center(states)
        return centered if self.weight is None else centered * self.weight

    def scale(self, states: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch"]:
        """Return s(h) = 1 / sqrt(mean((C h)²) + eps)."""
        return torch.rsqrt(self.center(states).square().mean(-1) + self.eps)

    def __call__(
        self,
        states: Float[Tensor, "*batch d_model"],
        scale: Float[Tensor, "*batch"] | None = None,
    ) -> Float[Tensor, "*batch d_model"]:
        """Return the normalised states, β included, with their own s(h) or a given one."""
        scale = self.scale(states) if scale is None else scale
        normalized = self.direction(states) * scale[..., None]
        return normalized if self.bias is None else normalized + self.bias


@dataclass(frozen=True)
class OutputTransform:
    """What a model does to its unembedded logits: multiply by `scale`, then softcap.

    Cohere and Granite scale; Gemma 2 caps with `softcap · tanh(x / softcap)`; most do neither.
    """

    scale: float = 1.0
    softcap: float | None = None

    def __call__(self, logits: Float[Tensor, "*batch d_vocab"]) -> Float[Tensor, "*batch d_vocab"]:
        """Return the model's logits for raw ones."""
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits


@dataclass(frozen=True)
class Readout:
    """Final norm, unembedding and output transform of one model.

    Attributes:
        unembed: W_U in the model's own precision (a view of the model's tensor, never a copy).
        unembed_bias: b_U, or None.
        norm: The final norm, or None for a model without one.
        transform: The output transform.
        dtype: The precision of the computation: float64 for float64 models, else float32.
    """

    unembed: Float[Tensor, "d_model d_vocab"]
    unembed_bias: Float[Tensor, " d_vocab"] | None
    norm: FinalNorm | None
    transform: OutputTransform
    dtype: torch.dtype

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.unembed.shape[0]

    @property
    def d_vocab(self) -> int:
        """Number of output tokens."""
        return self.unembed.shape[1]

    @property
    def device(self) -> torch.device:
        """Device of the unembedding, where all computation happens."""
        return self.unembed.device

    def normalize(
        self,
        states: Float[Tensor, "*batch d_model"],
        scale: Float[Tensor, "*batch"] | None = None,
    ) -> Float[Tensor, "*batch d_model"]:
        """Apply the final norm in the readout's precision, with its own s(h) or a given one."""
        states = states.to(self.device, self.dtype)
        if self.norm is None:
            return states
        return self.norm(states, None if scale is None else scale.to(states))

    def unembed_columns(self, start: int, stop: int) -> Float[Tensor, "d_model tile"]:
        """Return the columns `start:stop` of W_U in the readout's precision."""
        return self.unembed[:, start:stop].to(self.dtype)

    def bias_columns(self, start: int, stop: int) -> Float[Tensor, " tile"] | None:
        """Return the entries `start:stop` of b_U in the readout's precision."""
        if self.unembed_bias is None:
            return None
        return self.unembed_bias[start:stop].to(self.dtype)

    def logits(self, states: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        """Return the logits of whole vocabulary rows.

        This is the plain definition, for checks and for few states; the lenses use the tiled
        evaluations of this package, which never hold more than a tile of the vocabulary.
        """
        return self.logits_of_normalized(self.normalize(states))

    def logits_of_normalized(
        self, normalized: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_vocab"]:
        """Return the logits of whole vocabulary rows of states that `normalize` returned."""
        # Columns are converted from the model's precision in parts, never all at once.
        width = self.d_vocab if self.unembed.dtype == self.dtype else _COLUMNS_CONVERTED_AT_ONCE
        raw = torch.cat(
            [
                normalized @ self.unembed_columns(start, min(start + width, self.d_vocab))
                for start in range(0, self.d_vocab, width)
            ],
            dim=-1,
        )
        bias = self.bias_columns(0, self.d_vocab)
        return self.transform(raw if bias is None else raw + bias)
