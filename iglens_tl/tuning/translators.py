"""Translators of a tuned lens: one affine map for every state but the last."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Translators:
    """The translators of a tuned lens.

    Translator i reads the input of block i (`blocks.i.hook_resid_pre`), which is the state after
    block i − 1; translator 0 reads the embedding state. It turns a state h into `h + A_i h + b_i`,
    an estimate of the state after the last block. That last state itself has no translator. Zeros
    everywhere make the logit lens.

    Attributes:
        weight: `[layer, d_model, d_model]`, A. Row j of A_i makes entry j of the estimate.
        bias: `[layer, d_model]`, b, or None for a lens without.
        base_model: Name or folder of the model that the lens was trained for.
        revision: The revision of that model, or None.
        unembed_hash: The published hash of that model's unembedding. It is computed from an
            abbreviated print, so equal hashes prove nothing; it is a hint for messages.
        training: How the lens was trained, for people.
        origin: Where the lens comes from, for provenance: a folder, a hub name or "memory".
    """

    weight: Float[Tensor, "layer d_model d_model"]
    bias: Float[Tensor, "layer d_model"] | None
    base_model: str
    revision: str | None = None
    unembed_hash: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    origin: str = "memory"

    @classmethod
    def zeros(
        cls, n_layers: int, d_model: int, base_model: str, *, bias: bool = True
    ) -> Translators:
        """Return the translators that change nothing: the logit lens."""
        return cls(
            torch.zeros(n_layers, d_model, d_model),
            torch.zeros(n_layers, d_model) if bias else None,
            base_model,
        )

    @property
    def n_layers(self) -> int:
        """Number of translators, which is the model's number of blocks."""
        return self.weight.shape[0]

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.weight.shape[-1]

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of all parameters, the same for equal ones."""
        digest = hashlib.sha256()
        for tensor in (self.weight, self.bias):
            if tensor is not None:
                digest.update(tensor.detach().cpu().float().contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def apply(
        self, layer: int, states: Float[Tensor, "*batch d_model"]
    ) -> Float[Tensor, "*batch d_model"]:
        """Translate inputs of a block, in their own precision and on their device.

        Args:
            layer: The block whose input the states are.
            states: `[…, d_model]` states.

        Raises:
            ValueError: For a layer that has no translator.
        """
        if not 0 <= layer < self.n_layers:
            raise ValueError(
                f"there is no translator {layer}: this lens has {self.n_layers}, translator i "
                "reads the input of block i, and the last state has none"
            )
        bias = None if self.bias is None else self.bias[layer].to(states)
        return states + torch.nn.functional.linear(states, self.weight[layer].to(states), bias)

    def to(self, dtype: torch.dtype) -> Translators:
        """Return the same lens in another precision."""
        bias = None if self.bias is None else self.bias.to(dtype)
        return replace(self, weight=self.weight.to(dtype), bias=bias)

    def save(self, folder: str | Path, *, format: str = "safetensors") -> Path:
        """Write the lens to a folder and return it; see `iglens_tl.tuning.save_translators`."""
        from iglens_tl.tuning.storage import save_translators

        return save_translators(self, folder, format=format)

    @classmethod
    def load(cls, name_or_path: str | Path, *, revision: str | None = None) -> Translators:
        """Read a lens; see `iglens_tl.tuning.load_translators`."""
        from iglens_tl.tuning.hub import load_translators

        return load_translators(name_or_path, revision=revision)
