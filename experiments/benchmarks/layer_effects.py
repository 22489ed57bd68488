"""What layer effects cost with many interventions in a forward pass, beside a pass for each.

Run with `python -m experiments.benchmarks.layer_effects`. The loop runs the embedded model once for
every text and intervention, with hooks of TransformerLens that take the unit out, and reads the
answer's probability off the model's logits; it does nothing else. `layer_effects` also tokenises,
reads the untouched model and builds its result. Both give the same effects to the difference shown.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from experiments.common.timing import fastest_in_turns, machine
from experiments.demo_model.facts import load_relations
from iglens_tl import layer_effects, load_model
from iglens_tl.interventions.effects import UnitName
from iglens_tl.models import adapt
from iglens_tl.models.capture import run
from iglens_tl.prompts import build_requests

N_TEXTS = 64


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_model("demo")
    prompts, answers = texts()
    table = Table(title=f"Embedded model, zero effects at all positions, {machine()}")
    table.add_column("unit")
    for column in ("texts", "interventions", "batched, s", "loop, s", "ratio", "difference"):
        table.add_column(column, justify="right")
    cases: list[tuple[UnitName, int]] = [("layer", 1), ("layer", N_TEXTS), ("head", 1), ("head", 8)]
    for unit, number in cases:
        row = measure(model, prompts[:number], answers[:number], unit, options.repeats)
        table.add_row(unit, str(number), *row)
    Console(width=110).print(table)


def texts() -> tuple[list[str], list[str]]:
    """Return prompts about capitals, and their answers."""
    facts = load_relations()["capital"].facts[:N_TEXTS]
    prompts = [f"The capital of {fact.subject} is" for fact in facts]
    return prompts, [f" {fact.answer}" for fact in facts]


def measure(
    model: Any, prompts: list[str], answers: list[str], unit: UnitName, repeats: int
) -> tuple[str, ...]:
    """Time both ways in turns and compare what they find."""
    batched: Callable[[], Any] = partial(
        layer_effects, model, prompts, answer=answers, by=unit, intervention="skip"
    )
    loop: Callable[[], np.ndarray] = partial(one_by_one, model, prompts, answers, unit)
    seconds = fastest_in_turns({"batched": batched, "loop": loop}, repeats)
    found, expected = batched().values, loop()
    return (
        str(found.size),
        f"{seconds['batched']:.3f}",
        f"{seconds['loop']:.3f}",
        f"{seconds['loop'] / seconds['batched']:.1f}",
        f"{abs(found - expected).max():.1e}",
    )


def one_by_one(model: Any, prompts: list[str], answers: list[str], unit: str) -> np.ndarray:
    """Take every unit out of every text, in a forward pass of its own."""
    adapter = adapt(model)
    n_heads = model.cfg.n_heads if unit == "head" else 1
    of_texts = []
    for request in build_requests(adapter, prompts, answer=answers):
        tokens = torch.tensor([request.ids])
        untouched = probabilities(adapter, tokens, request, [])
        effects = []
        for layer in range(adapter.n_layers):
            for head in range(n_heads):
                hooks = hooks_without_head(layer, head) if unit == "head" else hooks_without(layer)
                effects.append(untouched - probabilities(adapter, tokens, request, hooks))
        of_texts.append(torch.stack(effects, dim=1))  # a row for each token of the answer
    return torch.cat(of_texts).numpy()


@torch.no_grad()
def probabilities(adapter: Any, tokens: Tensor, request: Any, hooks: list[Any]) -> Tensor:
    """Return the probability of every target of a text, from the model's logits."""
    with adapter.model.hooks(fwd_hooks=hooks):
        logits = run(adapter, tokens)[0, list(request.positions)]
    found = logits.double().softmax(-1)
    return found[torch.arange(len(found)), list(request.target_ids)]


def hooks_without(layer: int) -> list[Any]:
    """Return hooks that pass a block's input on after the first token."""
    inputs: list[Tensor] = []

    def enter(state: Tensor, hook: Any) -> None:
        del hook
        inputs.append(state.clone())

    def leave(state: Tensor, hook: Any) -> Tensor:
        del hook
        return torch.cat([state[:, :1], inputs[0][:, 1:]], dim=1)

    return [(f"blocks.{layer}.hook_resid_pre", enter), (f"blocks.{layer}.hook_resid_post", leave)]


def hooks_without_head(layer: int, head: int) -> list[Any]:
    """Return a hook under which a head passes nothing on after the first token."""

    def change(z: Tensor, hook: Any) -> Tensor:
        del hook
        changed = z.clone()
        changed[:, 1:, head] = 0
        return changed

    return [(f"blocks.{layer}.attn.hook_z", change)]


if __name__ == "__main__":
    main()
