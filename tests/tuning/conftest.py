"""Translators and token sequences for tests of the tuned lens."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from iglens_tl.tuning import Translators
from tests.support.families import D_VOCAB


@pytest.fixture(scope="session")
def random_translators() -> Callable[..., Translators]:
    """Return a function that draws small random translators."""

    def draw(
        n_layers: int = 3,
        d_model: int = 32,
        *,
        bias: bool = True,
        seed: int = 0,
        scale: float = 0.1,
    ) -> Translators:
        generator = torch.Generator().manual_seed(seed)
        weight = 0.1 * torch.randn(n_layers, d_model, d_model, generator=generator)
        vectors = 0.1 * torch.randn(n_layers, d_model, generator=generator)
        return Translators(weight, vectors if bias else None, "somebody/something")

    return draw


@pytest.fixture(scope="session")
def sequences() -> torch.Tensor:
    """Return random token sequences `[batch, pos]` of the toy vocabulary."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(4, D_VOCAB, (32, 16), generator=generator)
