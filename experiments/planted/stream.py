"""How the residual stream of a planted model is divided into orthogonal features.

The stream has one orthonormal basis, drawn at random from the seed, so that no feature is an axis.
All its directions are orthogonal to the all-ones vector, so that the mean that LayerNorm takes away
is zero. They are named:

- `constant`: `CONSTANT` at every token and far larger than all else together. It keeps the norm:
  the scale of every LayerNorm is `√d_model / CONSTANT` up to about two per cent, whatever the
  layers write, so that weights can be set as if there were no norm.
- `doubt`: 1 at tokens that must be answered. The readout makes it `DOUBT_LOGIT` for "unsure".
- `asks`, `named`, `sink`: 1 at the word that asks for an earlier name, at names, and at the first
  token. Only attention patterns depend on them.
- `country`, `idea`, `answer`: one direction for each fact. `country` says which country a token
  names. `idea` is a capital that the model has in mind but cannot say: the readout does not see it.
  `answer` is a capital that it says: 1 there is `ANSWER_LOGIT` for the capital's word.
- all other directions are `noise`. There each word has a random part, and every layer's random
  heads and neurons write there, with norms like that of a planted update. Only the logits of words
  that are never an answer depend on it.

Where no layer has written an answer, its probability is about e⁻⁹; with 1 along its direction it
is about 0.95. Half of that is not enough: doubt then wins.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from experiments.planted.vocabulary import CAPITALS

D_MODEL = 48
CONSTANT = 20.0
ANSWER_LOGIT = 12.0
DOUBT_LOGIT = 9.0

SCALE = D_MODEL**0.5 / CONSTANT
"""What every LayerNorm multiplies the features with, as long as the constant rules the norm."""

_SINGLE: tuple[str, ...] = ("constant", "doubt", "asks", "named", "sink")
_BY_FACT: tuple[str, ...] = ("country", "idea", "answer")


@dataclass(frozen=True, eq=False)
class Stream:
    """The named directions of a residual stream, as rows.

    Attributes:
        single: Directions by name.
        by_fact: By name one direction for each fact, in the order of `CAPITALS`.
        noise: The directions that carry nothing.
    """

    single: dict[str, Float[Tensor, " d_model"]]
    by_fact: dict[str, Float[Tensor, "fact d_model"]]
    noise: Float[Tensor, "direction d_model"]

    @property
    def features(self) -> Float[Tensor, "direction d_model"]:
        """All directions but the constant one."""
        single = [vector for name, vector in self.single.items() if name != "constant"]
        return torch.cat([torch.stack(single), *self.by_fact.values(), self.noise])


def draw_stream(generator: torch.Generator) -> Stream:
    """Draw the basis at random."""
    square = torch.randn(D_MODEL, D_MODEL, generator=generator, dtype=torch.float64)
    square[:, 0] = 1.0
    basis = torch.linalg.qr(square).Q.T[1:]  # the first row is the all-ones direction
    single: dict[str, Tensor] = dict(zip(_SINGLE, basis, strict=False))
    rest = basis[len(_SINGLE) :]
    n_facts = len(CAPITALS)
    by_fact = {name: rest[i * n_facts : (i + 1) * n_facts] for i, name in enumerate(_BY_FACT)}
    return Stream(single, by_fact, rest[len(_BY_FACT) * n_facts :])
