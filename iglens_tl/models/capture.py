"""Running a model once and keeping parts of its residual stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
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
    hooks = _keeping(readers, kept)
    hooks.append((until or adapter.post_site(adapter.n_layers - 1), stop_here))
    with _forward_mode(adapter.model), added_hooks(adapter, hooks), suppress(EnoughRun):
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
    hooks = _keeping(dict.fromkeys(names, Tensor.clone), kept)
    with _forward_mode(adapter.model), added_hooks(adapter, hooks):
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
def added_hooks(
    adapter: ModelAdapter, functions: Iterable[tuple[str, Callable[..., Tensor | None]]]
) -> Iterator[None]:
    """Add functions at hook points for a while, after those that are there.

    TransformerLens' own `model.hooks` gathers all hook points of a bridge anew for every name,
    which takes longer than many a forward pass.

    Args:
        adapter: The model.
        functions: Hook names, each with a function of the activation and of `hook`.

    Raises:
        ValueError: For a hook that the model does not have.
    """
    model, added = adapter.model, []
    model.context_level += 1
    level = model.context_level
    try:
        for name, function in functions:
            if name not in adapter.hook_points:
                raise ValueError(f"{adapter.name} has no hook {name}")
            point = adapter.hook_points[name]
            added.append(point)
            point.add_hook(function, level=level)
        yield
    finally:
        for point in added:
            point.remove_hooks(level=level)
        model.context_level -= 1


def _keeping(
    readers: Mapping[str, Callable[[Tensor], Tensor]], kept: dict[str, Tensor]
) -> list[tuple[str, Callable[..., Tensor | None]]]:
    return [(name, partial(_keep, reader, kept, name)) for name, reader in readers.items()]


def _keep(
    reader: Callable[[Tensor], Tensor],
    kept: dict[str, Tensor],
    name: str,
    activation: Tensor,
    hook: Any,
) -> None:
    del hook
    kept[name] = reader(activation)


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
