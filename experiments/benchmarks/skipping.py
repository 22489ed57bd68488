"""What coalitions of blocks cost in batches that share their prefixes, beside one by one.

Run with `python -m experiments.benchmarks.skipping`. "One by one" is one forward pass for each
coalition, up to the last residual state; a hook puts a skipped block's input in the place of its
output. Of all coalitions it runs a random sample, from which its rate is known.
"""

from __future__ import annotations

import argparse
from functools import partial
from itertools import product
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from experiments.common.timing import fastest_in_turns, machine
from iglens_tl.models import ModelAdapter, adapt, capture
from iglens_tl.models.skipping import run_skipping

N_LAYERS = 12
N_TOKENS = 16
D_MODEL = 256
N_SAMPLED = 128


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    title = f"{N_LAYERS} blocks of width {D_MODEL}, {N_TOKENS} tokens, {machine()}"
    table = Table(title=title)
    table.add_column("coalitions")
    for column in ("number", "batched, s", "per second", "one by one, per second", "ratio"):
        table.add_column(column, justify="right")
    adapter = adapt(random_model())
    every = torch.tensor(list(product([False, True], repeat=N_LAYERS)))
    sample = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))[:N_SAMPLED]
    leave_one_out = ~torch.eye(N_LAYERS, dtype=torch.bool)
    for name, keep, alone in (
        ("all", every, every[sample]),
        ("one block left out", leave_one_out, leave_one_out),
    ):
        table.add_row(name, str(len(keep)), *measure(adapter, keep, alone, options.repeats))
    Console(width=110).print(table)


def measure(
    adapter: ModelAdapter, keep: Tensor, alone: Tensor, repeats: int
) -> tuple[str, str, str, str]:
    """Time coalitions in batches and a sample of them one by one, in turns."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(adapter.d_vocab, (N_TOKENS,), generator=generator).tolist()
    seconds = fastest_in_turns(
        {
            "batched": partial(run_skipping, adapter, ids, keep, [N_TOKENS - 1]),
            "alone": partial(one_by_one, adapter, ids, alone),
        },
        repeats,
    )
    batched, by_loop = len(keep) / seconds["batched"], len(alone) / seconds["alone"]
    return (
        f"{seconds['batched']:.3f}",
        f"{batched:,.0f}",
        f"{by_loop:,.0f}",
        f"{batched / by_loop:.1f}",
    )


def one_by_one(adapter: ModelAdapter, ids: list[int], keep: Tensor) -> Tensor:
    """Run every coalition in a forward pass of its own."""
    last_site = adapter.post_site(adapter.n_layers - 1)
    states = []
    for row in keep.tolist():
        hooks: list[tuple[str, Any]] = []
        for layer in (layer for layer, runs in enumerate(row) if not runs):
            passed_on: list[Tensor] = []
            hooks.append((f"blocks.{layer}.hook_resid_pre", partial(remember, to=passed_on)))
            hooks.append((adapter.post_site(layer), partial(recall, kept=passed_on)))
        with adapter.model.hooks(fwd_hooks=hooks):
            kept = capture(adapter, torch.tensor([ids]), {last_site: lambda state: state[:, -1]})
        states.append(kept[last_site])
    return torch.cat(states)


def remember(state: Tensor, hook: Any, to: list[Tensor]) -> None:
    """Keep a block's input; a hook."""
    del hook
    to.append(state.clone())


def recall(state: Tensor, hook: Any, kept: list[Tensor]) -> Tensor:
    """Return a block's input in the place of its output; a hook."""
    del state, hook
    return kept[0]


def random_model() -> Any:
    """Return a random model that TransformerLens builds itself."""
    config = TransformerBridgeConfig(
        d_model=D_MODEL,
        d_head=64,
        n_heads=D_MODEL // 64,
        n_layers=N_LAYERS,
        n_ctx=64,
        d_vocab=1000,
        act_fn="gelu",
        seed=0,
    )
    return TransformerBridge.boot_native(config).eval()


if __name__ == "__main__":
    main()
