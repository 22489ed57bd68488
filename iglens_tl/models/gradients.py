"""Running the blocks from given states, with gradients."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.models.capture import EnoughRun, added_hooks, run, stop_here


def run_from_states(
    adapter: ModelAdapter,
    ids: Sequence[int],
    states: Float[Tensor, "row pos d_model"],
    *,
    start: str,
    keep: Sequence[str],
) -> dict[str, Tensor]:
    """Run the blocks of a model from given states and keep activations in the autograd graph.

    Every row is the same text with other states at the start. Hooks that the user added stay
    active; the states replace what they leave at the start. The hooks added here are removed again
    and the model's training mode and the `requires_grad` of its parameters are restored, also after
    an error. Gradients reach the kept activations only, never a parameter.

    Args:
        adapter: The model.
        ids: The text, which decides on positions and length.
        states: What to put at the start, one row for each run.
        start: The hook whose activation is replaced.
        keep: The hooks to keep. The start may be one of them; hooks below it have no gradient.

    Returns:
        The activations by hook name, each `[row, pos, d_model]`.

    Raises:
        ValueError: If a hook did not fire.
    """
    kept: dict[str, Tensor] = {}

    def inject(activation: Tensor, hook: Any) -> Tensor:
        del hook
        return states.to(activation)

    def record(activation: Tensor, hook: Any, name: str) -> Tensor:
        del hook
        if not activation.requires_grad:
            # The start itself, or what a hook of the user's made constant.
            activation = activation.detach().requires_grad_()
        kept[name] = activation
        return activation

    hooks: list[tuple[str, Any]] = [(start, inject)]
    hooks += [(name, partial(record, name=name)) for name in keep]
    hooks.append((adapter.post_site(adapter.n_layers - 1), stop_here))
    tokens = torch.tensor([list(ids)]).expand(len(states), -1)
    with (
        _gradient_mode(adapter.model),
        added_hooks(adapter, hooks),
        suppress(EnoughRun),
    ):
        run(adapter, tokens)
    missing = [name for name in keep if name not in kept]
    if missing:
        raise ValueError(f"{adapter.name}: hook {missing[0]} did not fire in the forward pass")
    return kept


@contextmanager
def recording():
    """Record gradients, whatever mode the caller is in."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def _gradient_mode(model: Any):
    """Switch dropout off and gradients on, but those of the parameters off, for a while."""
    was_training = model.training
    # A graph that reached the parameters would keep more activations alive than are needed.
    trainable = [weight for weight in model.parameters() if weight.requires_grad]
    try:
        if was_training:
            model.eval()
        for weight in trainable:
            weight.requires_grad_(False)
        with recording():
            yield
    finally:
        for weight in trainable:
            weight.requires_grad_(True)
        if was_training:
            model.train()
