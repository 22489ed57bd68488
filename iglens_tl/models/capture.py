"""Running a model once and keeping parts of its residual stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from iglens_tl.models.adapter import ModelAdapter


class EnoughRun(Exception):
    """Ends a forward pass of which nobody needs the rest, such as the logits."""


def capture(
    adapter: ModelAdapter,
    tokens: Int[Tensor, "batch pos"],
    readers: Mapping[str, Callable[[Tensor], Tensor]],
    *,
    until: str | None = None,
) -> dict[str, Tensor]:
    """Run the blocks of a model and keep what the readers take of its hook points.

    Hooks that the user added to the model stay active, so that an intervention is analysed as it
    runs. The hooks added here are removed again, also after an error.

    Args:
        adapter: The model.
        tokens: Token ids; all rows have the same length, so no padding is involved.
        readers: For each hook name a function of the activation, called with no gradient; it
            must return a new tensor, not a view, or the whole activation stays in memory.
        until: The hook after which nothing is needed any more; None for the last block's output.

    Returns:
        What each reader returned, by hook name.

    Raises:
        ValueError: If a hook did not fire.
    """
    kept: dict[str, Tensor] = {}

    def keep(activation: Tensor, hook: Any, name: str) -> None:
        del hook
        kept[name] = readers[name](activation)

    hooks: list[tuple[str, Any]] = [(name, partial(keep, name=name)) for name in readers]
    hooks.append((until or adapter.post_site(adapter.n_layers - 1), stop_here))
    with (
        _forward_mode(adapter.model),
        adapter.model.hooks(fwd_hooks=hooks),
        suppress(EnoughRun),
    ):
        run(adapter, tokens)
    missing = [name for name in readers if name not in kept]
    if missing:
        raise ValueError(f"{adapter.name}: hook {missing[0]} did not fire in the forward pass")
    return kept


def capture_with_logits(
    adapter: ModelAdapter, tokens: Int[Tensor, "batch pos"], names: list[str]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Run a whole forward pass and keep its logits and the named activations."""
    kept: dict[str, Tensor] = {}

    def keep(activation: Tensor, hook: Any, name: str) -> None:
        del hook
        kept[name] = activation.detach().clone()

    hooks = [(name, partial(keep, name=name)) for name in names]
    with _forward_mode(adapter.model), adapter.model.hooks(fwd_hooks=hooks):
        return run(adapter, tokens), kept


def run(adapter: ModelAdapter, tokens: Int[Tensor, "batch pos"]) -> Tensor:
    """Return the model's logits `[batch, pos, d_vocab]`."""
    tokens = tokens.to(adapter.device)
    # Without a mask TransformerLens may guess one from the pad token, which can be a real token.
    return adapter.model(tokens, attention_mask=torch.ones_like(tokens), return_type="logits")


def unfold_texts(activation: Tensor, n_texts: int) -> Tensor:
    """Return an activation as `[batch, pos, …]`.

    Hugging Face's OPT folds texts and positions into one axis inside its MLPs.
    """
    if len(activation) == n_texts:
        return activation
    return activation.unflatten(0, (n_texts, -1))


def stop_here(activation: Tensor, hook: Any) -> None:
    """End the forward pass; a hook for the last activation that is needed."""
    del activation, hook
    raise EnoughRun


@contextmanager
def _forward_mode(model: Any):
    """Switch dropout and gradients off for a while."""
    was_training = model.training
    if was_training:  # switching visits every module, which costs more than a small forward pass
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if was_training:
            model.train()
