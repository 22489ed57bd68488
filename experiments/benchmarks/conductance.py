"""What layer conductance costs beside its bare forward and backward passes.

Run with `python -m experiments.benchmarks.conductance`. "Bare" are the same nodes of the same path
in the same batches, run through the model as a user would write it: a hook puts the interpolated
embedding states in, the model returns its logits, and the target's probability is differentiated
with respect to the embedding states only, once for every target. "Bare, no unembedding" computes
the logits at the read positions alone, as the lens does. Neither collects what the lens is for: the
gradients of every layer and their products with the changes of the activations.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from experiments.benchmarks.comparison import random_llama
from experiments.common.timing import fastest_in_turns, machine
from iglens_tl import CompletenessWarning, layer_conductance, load_model
from iglens_tl.lenses.input_paths import parts_of_path, value_at
from iglens_tl.models import ModelAdapter, adapt, capture
from iglens_tl.models.gradients import recording, run_from_states
from iglens_tl.readout import resolve_value

N_STEPS = 50
PROB = resolve_value("prob")
CASES = {"1 target after 16 tokens": (16, 1), "3 targets after 16 tokens": (16, 3)}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", CompletenessWarning)
    table = Table(title=f"{N_STEPS} steps, {machine()}")
    for column in ("model", "text", "conductance", "bare", "ratio", "aim"):
        table.add_column(column, justify="left" if column in ("model", "text") else "right")
    table.add_column("bare, no unembedding", justify="right")
    table.add_column("ratio", justify="right")
    for name, model in {"demo": load_model("demo"), "random Llama": random_llama()}.items():
        for case, (n_prompt, n_answer) in CASES.items():
            row = measure(model, n_prompt, n_answer, options.repeats)
            table.add_row(name, case, *row[:3], "≤ 1.10", *row[3:])
    Console(width=130).print(table)


def measure(model: Any, n_prompt: int, n_answer: int, repeats: int) -> tuple[str, ...]:
    """Time the lens and the bare passes in turns."""
    adapter = adapt(model)
    generator = torch.Generator().manual_seed(0)
    n_tokens = n_prompt + n_answer
    ids = torch.randint(4, adapter.d_vocab, (n_tokens,), generator=generator).tolist()
    prompt, answer = ids[:n_prompt], ids[n_prompt:]
    seconds = fastest_in_turns(
        {
            "lens": partial(layer_conductance, adapter, prompt, answer=answer, n_steps=N_STEPS),
            "bare": partial(bare_passes, adapter, ids, n_prompt, whole_model),
            "blocks": partial(bare_passes, adapter, ids, n_prompt, blocks_only),
        },
        repeats,
    )
    lens, bare, blocks = seconds["lens"], seconds["bare"], seconds["blocks"]
    return (
        f"{lens:.3f}",
        f"{bare:.3f}",
        f"{lens / bare:.2f}",
        f"{blocks:.3f}",
        f"{lens / blocks:.2f}",
    )


Forward = Callable[[ModelAdapter, list[int], Tensor], Callable[[int, int], Tensor]]
"""Runs the model from embedding states; returns a function from position and token to values."""


@recording()
def bare_passes(
    adapter: ModelAdapter, ids: list[int], n_prompt: int, forward: Forward
) -> list[Tensor]:
    """Run the passes of the lens and keep the last gradient of each target."""
    site = adapter.embed_site
    embeddings = capture(adapter, torch.tensor([ids]), {site: torch.clone})[site][0]
    start = embeddings.mean(0, keepdim=True).expand_as(embeddings)
    nodes = torch.linspace(0, 1, N_STEPS + 1, dtype=torch.float64)
    targets = list(enumerate(ids[n_prompt:], n_prompt - 1))
    gradients = []
    for _, states in parts_of_path(start, embeddings, nodes):
        states.requires_grad_()
        value = forward(adapter, ids, states)
        gradients = [
            torch.autograd.grad(value(*target).sum(), states, retain_graph=target != targets[-1])[0]
            for target in targets
        ]
    return gradients


def whole_model(
    adapter: ModelAdapter, ids: list[int], states: Tensor
) -> Callable[[int, int], Tensor]:
    """Run the model with its logits at every position."""
    tokens = torch.tensor([ids]).expand(len(states), -1)

    def inject(state: Tensor, hook: Any) -> Tensor:
        del state, hook
        return states

    logits = adapter.model.run_with_hooks(tokens, fwd_hooks=[(adapter.embed_site, inject)])

    def value(position: int, token: int) -> Tensor:
        return logits[:, position].softmax(-1)[:, token]

    return value


def blocks_only(
    adapter: ModelAdapter, ids: list[int], states: Tensor
) -> Callable[[int, int], Tensor]:
    """Run the blocks, and read out only where a target is."""
    last_site = adapter.post_site(adapter.n_layers - 1)
    kept = run_from_states(adapter, ids, states, start=adapter.embed_site, keep=[last_site])
    last = kept[last_site]

    def value(position: int, token: int) -> Tensor:
        return value_at(adapter.readout, PROB, last[:, position], token, last[0, position])

    return value


if __name__ == "__main__":
    main()
