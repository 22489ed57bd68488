"""A model with random weights for a while: what a measure says of a model that learned nothing.

Explanations that look the same for a trained and a randomised model do not explain what the model
learned (Adebayo et al. 2018, "Sanity Checks for Saliency Maps").
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from iglens_tl.models.adapter import Model, ModelAdapter
from iglens_tl.models.loading import adapt

if TYPE_CHECKING:
    Seed: TypeAlias = int
else:  # anything may arrive here; it is answered with a readable error
    Seed = Any


@contextmanager
def reinitialized(model: Model, *, seed: Seed = 0) -> Iterator[ModelAdapter]:
    """Give a model random weights inside a `with` block.

    Every weight matrix, embeddings included, is drawn from a normal distribution with the matrix's
    own mean and standard deviation, so that activations keep about their size. Norms and biases
    stay. Weights that are used in several places stay shared, such as the tied embeddings of a
    `TransformerBridge`; a `HookedTransformer` has a copy for each use, and they are drawn apart.

    The model itself is changed, so that everything that holds it sees the random weights. When the
    block ends, also by an error or an interruption, it has its own weights again, bit for bit.
    Meanwhile they take as much memory once more.

    Args:
        model: A `HookedTransformer` or `TransformerBridge`, or its adapter.
        seed: Seed of the draws, at least 0. They leave torch's own generator alone.

    Yields:
        A new adapter of the model, whose readout belongs to the random weights. Use it inside the
        block only.

    Raises:
        TypeError: For anything but a model.
        ValueError: For a seed that is no integer of at least 0.

    Example:
        >>> from iglens_tl import ig_lens, load_model
        >>> model = load_model("demo")
        >>> with reinitialized(model) as random_model:
        ...     null = ig_lens(random_model, "The capital of Vietnam is", answer=" Hanoi")
        >>> bool(null.final[0] < 0.1)
        True
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed must be an integer of at least 0, got {seed!r}")
    own_model = adapt(model).model
    weights = _weight_matrices(own_model)
    own = [weight.detach().clone() for weight in weights]
    generator = torch.Generator().manual_seed(seed)
    try:
        # Drawn from the copies, because weights may share their memory with one another.
        _write(weights, (_draw_like(weight, generator) for weight in own))
        yield adapt(own_model)
    finally:
        _write(weights, own)


def _weight_matrices(model: Any) -> list[Tensor]:
    """Return the weights that are matrices or stacks of matrices, each once."""
    return [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim >= 2 and parameter.is_floating_point() and not _is_bias(name)
    ]


def _is_bias(name: str) -> bool:
    # Biases of heads and experts are stacked, so that they have two axes.
    last = name.rsplit(".", 1)[-1]
    return last.lstrip("_").startswith("b_") or "bias" in last


def _draw_like(weight: Tensor, generator: torch.Generator) -> Tensor:
    # Drawn on the CPU in float32, so that every device and precision draws the same numbers.
    mean, std = weight.float().mean(), weight.float().std(correction=0)
    noise = torch.randn(weight.shape, generator=generator, dtype=torch.float32)
    return noise * std.cpu() + mean.cpu()


@torch.no_grad()
def _write(weights: list[Tensor], values: Iterator[Tensor] | list[Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)
