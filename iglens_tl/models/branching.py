"""Running copies of texts that go their own way from one block on, many in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.models.capture import added_hooks, capture, unfold_texts
from iglens_tl.models.skipping import batch_may_change

Edit: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Maps the branches' activation at a site, and their states at the block's input, to what takes
the activation's place."""


@dataclass(frozen=True)
class Branches:
    """Copies of texts that differ from them from one block on.

    Attributes:
        parents: For each branch the text that it is a copy of.
        site: The hook in the block at which all of them are edited.
        edit: What happens there.
    """

    parents: Int[Tensor, " branch"]
    site: str
    edit: Edit


def run_branches(
    adapter: ModelAdapter,
    tokens: Int[Tensor, "text pos"],
    branches: Mapping[int, Branches],
    positions: Sequence[Sequence[int]],
) -> Float[Tensor, "row d_model"]:
    """Run texts with their branches and return the branches' last residual states.

    Below its block a branch is its text, so it joins the batch there and the blocks below run every
    text once.

    Hooks that the user added stay active, and see batches of any size.

    Args:
        adapter: The model.
        tokens: Texts, filled up to one length on the right where padding is harmless.
        branches: By block, the branches that leave the texts there.
        positions: For each branch, in order of the blocks, the positions at which it is read.

    Returns:
        The states in the readout's precision and on its device, branch by branch.

    Raises:
        ValueError: If a site of an edit does not fire.
    """
    merge = batch_may_change(adapter)
    n_texts = len(tokens)
    parents = torch.cat([torch.arange(n_texts), *(branches[i].parents for i in sorted(branches))])
    ends = _row_ends(branches, n_texts)
    inputs: dict[int, Tensor] = {}
    edited: set[int] = set()

    def begin(state: Tensor, hook: Any, embeddings: Tensor) -> Tensor:
        del hook
        return embeddings.to(state)

    def enter(state: Tensor, hook: Any, layer: int) -> Tensor:
        del hook
        if merge:
            state = torch.cat([state, state[branches[layer].parents.to(state.device)]])
        # Blocks may add to their input in place.
        inputs[layer] = state[slice(*ends[layer])].clone()
        return state

    def change(activation: Tensor, hook: Any, layer: int) -> Tensor:
        del hook
        first, last = ends[layer]
        changed = unfold_texts(activation, last if merge else len(parents)).clone()
        edit = branches[layer].edit
        changed[first:last] = edit(changed[first:last], inputs.pop(layer)).to(changed)
        edited.add(layer)
        return changed.view(activation.shape)

    hooks: list[tuple[str, Any]] = []
    if merge and n_texts > 1:
        # What a model computes once before its blocks has one row, which serves any number of
        # texts of this length. So one text goes in, and its embedding gives way to those of all.
        readers = {adapter.embed_site: Tensor.clone}
        site = adapter.embed_site
        embeddings = capture(adapter, tokens, readers, until=site)[site]
        hooks.append((site, partial(begin, embeddings=embeddings)))
    for layer in sorted(branches):
        hooks.append((adapter.pre_site(layer), partial(enter, layer=layer)))
        hooks.append((branches[layer].site, partial(change, layer=layer)))
    last_site = adapter.post_site(adapter.n_layers - 1)
    rows = [n_texts + branch for branch, read in enumerate(positions) for _ in read]
    columns = [position for read in positions for position in read]
    with added_hooks(adapter, hooks):
        found = capture(
            adapter,
            tokens[:1] if merge else tokens[parents],
            {last_site: lambda state: state[rows, columns]},
        )
    missing = [branches[layer].site for layer in branches if layer not in edited]
    if missing:
        raise ValueError(f"{adapter.name}: hook {missing[0]} did not fire in the forward pass")
    return found[last_site].to(adapter.readout.device, adapter.readout.dtype)


def _row_ends(branches: Mapping[int, Branches], n_texts: int) -> dict[int, tuple[int, int]]:
    """Return by block the first row of its branches in the batch, and the first one after them."""
    ends, first = {}, n_texts
    for layer in sorted(branches):
        ends[layer] = (first, first + len(branches[layer].parents))
        first = ends[layer][1]
    return ends
