"""Running a model with some of its blocks skipped, for many coalitions of blocks at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iglens_tl.models.adapter import ModelAdapter
from iglens_tl.models.capture import added_hooks, capture

_TOKENS_PER_PASS = 4096


def run_skipping(
    adapter: ModelAdapter,
    ids: Sequence[int],
    keep: Bool[Tensor, "row layer"],
    positions: Sequence[int],
    *,
    first_token: bool = True,
) -> Float[Tensor, "row position d_model"]:
    """Return the last residual states of a text when only some of the blocks run.

    A skipped block passes its input on unchanged, at every position. The state after a block
    depends on the decisions up to that block only, so rows that agree so far run once: all `2^n`
    coalitions of n blocks take about `2^n` runs of a block instead of `n · 2^n`, and leaving out
    every block once takes half of the runs that its rows would take one by one.

    Hooks that the user added stay active. They see batches of any size; those at the input of a
    block also change what a skipped block passes on, all others act in the blocks that run.

    Args:
        adapter: The model.
        ids: The text.
        keep: For each row the blocks that run. Rows may repeat, in any order.
        positions: Where the states are read, counted from 0.
        first_token: Whether blocks are skipped at the first token too. Models keep large states
            there, on which heads rest that have nothing to read; False runs all blocks there.

    Returns:
        The states in the readout's precision and on its device, in the order of the rows.

    Raises:
        ValueError: If `keep` is not boolean, has no row or another width than the model has layers;
            if the text is empty or a position outside of it; if a hook changes the batch.
    """
    _check_arguments(adapter, ids, keep, positions)
    # Sorted like words, so that rows of one pass share as many decisions as possible.
    coalitions, coalition_of_row = torch.unique(keep.cpu(), dim=0, return_inverse=True)
    rows_per_pass = max(1, _TOKENS_PER_PASS // len(ids))
    merge = batch_may_change(adapter)
    everybody = torch.ones_like(coalitions[:1])
    passes = []
    for part in coalitions.split(rows_per_pass):
        # Being the last in order, the run with all blocks is the last row of every block.
        rows = part if first_token else torch.cat([part, everybody])
        states = _run_pass(adapter, ids, _plan(rows, merge=merge), positions, first_token)
        passes.append(states[: len(part)])
    states = torch.cat(passes)
    return states[coalition_of_row.to(states.device)]


def batch_may_change(adapter: ModelAdapter) -> bool:
    """Return whether every block of a model may run another number of rows.

    What is computed once before the blocks (position ids, rotary tables, masks) has one row, which
    serves any number of them, with two exceptions in Hugging Face's code: ALiBi, which BLOOM and
    Falcon fold with the batch into one axis, and XGLM, which compares its mask with the batch.
    """
    if adapter.backend == "hooked":
        return True
    config = adapter.model.cfg
    alibi = getattr(config, "positional_embedding_type", None) == "alibi"
    return not alibi and getattr(config, "architecture", None) != "XGLMForCausalLM"


@dataclass(frozen=True)
class _Step:
    """The rows of a batch before and after one block.

    Attributes:
        n_before: Number of rows at the block's input.
        running: Those of them that the block runs, increasing.
        kept: For each row after the block, whether the block runs in it.
        sources: The row that it continues: of the block's output where kept, else of its input.
    """

    n_before: int
    running: Int[Tensor, " running"]
    kept: Bool[Tensor, " after"]
    sources: Int[Tensor, " after"]


def _run_pass(
    adapter: ModelAdapter,
    ids: Sequence[int],
    steps: Sequence[_Step],
    positions: Sequence[int],
    first_token: bool,
) -> Float[Tensor, "row position d_model"]:
    """Run the blocks once, on the rows that each step asks for.

    Without the first token among what is skipped, all rows take its states from the last one.
    """
    inputs: dict[int, Tensor] = {}

    def enter(state: Tensor, hook: Any, layer: int) -> Tensor:
        del hook
        _require_rows(adapter, adapter.pre_site(layer), state, steps[layer].n_before)
        # Blocks may add to their input in place.
        inputs[layer] = state.clone()
        return state[steps[layer].running]

    def leave(output: Tensor, hook: Any, layer: int) -> Tensor:
        del hook
        step = steps[layer]
        _require_rows(adapter, adapter.post_site(layer), output, len(step.running))
        passed_on = inputs.pop(layer).to(output)
        after = output.new_empty(len(step.kept), *output.shape[1:])
        after[step.kept] = output[step.sources[step.kept]]
        after[~step.kept] = passed_on[step.sources[~step.kept]]
        if not first_token:
            after[:-1, 0] = after[-1, 0]
        return after

    hooks: list[tuple[str, Any]] = []
    for layer in range(adapter.n_layers):
        hooks.append((adapter.pre_site(layer), partial(enter, layer=layer)))
        hooks.append((adapter.post_site(layer), partial(leave, layer=layer)))
    tokens = torch.tensor([list(ids)]).expand(steps[0].n_before, -1)
    last_site = adapter.post_site(adapter.n_layers - 1)
    readers = {last_site: lambda state: state[:, list(positions)]}
    with added_hooks(adapter, hooks):
        states = capture(adapter, tokens, readers)[last_site]
    return states.to(adapter.readout.device, adapter.readout.dtype)


def _plan(keep: Bool[Tensor, "row layer"], *, merge: bool) -> list[_Step]:
    """Decide which rows every block runs.

    Args:
        keep: Distinct coalitions, sorted.
        merge: Whether coalitions share a row up to the first block on which they differ, and a
            block runs only rows that some coalition keeps it in. Otherwise every coalition has a
            row of its own, which all blocks run.
    """
    changes = torch.zeros_like(keep)
    changes[1:] = keep[1:] != keep[:-1]
    changes[0, 0] = True
    if not merge:
        changes[:, 0] = True
    # Whether a coalition differs from the one above in some block up to this one.
    begins_row = changes.cumsum(1) > 0
    row_of = torch.zeros(len(keep), dtype=torch.long) if merge else torch.arange(len(keep))
    steps = []
    for layer, begins in enumerate(begins_row.T):
        n_before = int(row_of[-1]) + 1
        parents, kept = row_of[begins], keep[begins, layer]
        running = parents[kept].unique() if merge else torch.arange(n_before)
        if not len(running):
            running = torch.zeros(1, dtype=torch.long)  # models cannot run a batch of no rows
        sources = torch.where(kept, torch.searchsorted(running, parents), parents)
        steps.append(_Step(n_before, running, kept, sources))
        row_of = begins.cumsum(0) - 1
    return steps


def _require_rows(adapter: ModelAdapter, site: str, state: Tensor, expected: int) -> None:
    if len(state) != expected:
        raise ValueError(
            f"{adapter.name}: {len(state)} rows at {site} where blocks are skipped for {expected}; "
            "remove hooks that replace the batch, and let others act on batches of any size"
        )


def _check_arguments(
    adapter: ModelAdapter, ids: Sequence[int], keep: Tensor, positions: Sequence[int]
) -> None:
    if keep.dtype != torch.bool or keep.ndim != 2:
        raise ValueError(
            "keep must be a boolean tensor [row, layer], "
            f"got {keep.dtype} of shape {list(keep.shape)}"
        )
    if keep.shape[1] != adapter.n_layers:
        raise ValueError(
            f"keep has {keep.shape[1]} columns, but {adapter.name} has {adapter.n_layers} blocks: "
            "give one column for each block, True where it runs"
        )
    if not len(keep):
        raise ValueError("keep has no row: give one row for each coalition of blocks")
    if not ids:
        raise ValueError("the text has no token")
    outside = [position for position in positions if not 0 <= position < len(ids)]
    if outside:
        raise ValueError(
            f"position {outside[0]} lies outside the text of {len(ids)} tokens: "
            f"positions count from 0 to {len(ids) - 1}"
        )
