"""Speed of tuned-lens training beside the published training step, on the same model and batch.

Run with `python -m experiments.benchmarks.tuned_lens`. The published step is that of the
`tuned-lens` package where it is installed (its lens on the Hugging Face model), and otherwise the
same computation in plain torch; both are measured where both are there. All steps run the model,
compute KL(model ‖ lens) for every layer with an immediate backward pass, clip, and update with
SGD-Nesterov. Every step is timed in turns with the others, and the fastest counts.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from experiments.common.timing import machine
from iglens_tl import load_model
from iglens_tl.models import adapt
from iglens_tl.models.loading import DEMO_FOLDER
from iglens_tl.tuning import TrainSettings
from iglens_tl.tuning.training import Trainer

Step = Callable[[], object]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sequences", type=int, default=8, help="sequences of a step")
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    table = Table(title=f"tuned-lens training, {machine(options.device)}")
    for column in ("model", "step", "tokens/s", "beside ours", "largest gradient difference"):
        table.add_column(column, justify="left" if column in ("model", "step") else "right")
    for name, folder in models():
        for row in rows(name, folder, options):
            table.add_row(*row)
    Console(width=120).print(table)


def models() -> list[tuple[str, Path]]:
    """Return the embedded model, and a random one with the vocabulary of GPT-2."""
    folder = Path("out") / "benchmark_gpt2"
    if not folder.is_dir():
        torch.manual_seed(0)
        config = GPT2Config(n_embd=256, n_layer=4, n_head=4, n_positions=512)
        GPT2LMHeadModel(config).save_pretrained(folder)
        # Any tokenizer will do: the batch consists of random ids.
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (folder / file).write_bytes((DEMO_FOLDER / file).read_bytes())
    return [("demo, 192 × 4,096, 8 layers", DEMO_FOLDER), ("256 × 50,257, 4 layers", folder)]


def rows(name: str, folder: Path, options: argparse.Namespace) -> list[tuple[str, ...]]:
    """Measure all steps on one model."""
    adapter = adapt(load_model(folder, device=options.device))
    hf_model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    hf_model = hf_model.to(options.device).eval().requires_grad_(False)
    shape = (options.sequences, options.seq_len)
    generator = torch.Generator().manual_seed(0)
    batch = torch.randint(4, adapter.d_vocab, shape, generator=generator)
    trainer = Trainer(adapter, TrainSettings(steps=1000), batch)
    steps: dict[str, tuple[Step, Callable[[], list[Any]]]] = {
        "ours": (lambda: trainer.accumulate(batch), lambda: [w.grad for w in trainer.weights]),
        "plain torch": plain_step(hf_model, batch.to(options.device)),
    }
    package = package_step(hf_model, batch.to(options.device))
    if package is not None:
        steps["tuned-lens package"] = package
    updates = {
        "ours": lambda: trainer.update(tuple([0.0] * adapter.n_layers)),
    }
    gradients = {}
    for step_name, (step, gradients_of) in steps.items():
        step()
        gradients[step_name] = [gradient.clone() for gradient in gradients_of()]
        updates.get(step_name, lambda: None)()
    times: dict[str, list[float]] = {step_name: [] for step_name in steps}
    for _ in range(options.repeats):
        for step_name, (step, _) in steps.items():
            start = time.perf_counter()
            step()
            updates.get(step_name, lambda: None)()
            if options.device != "cpu":
                torch.cuda.synchronize()
            times[step_name].append(time.perf_counter() - start)
            print(f"{name}, {step_name}: {times[step_name][-1]:.2f} s", file=sys.stderr)
    speeds = {n: batch.numel() / min(seconds) for n, seconds in times.items()}
    return [
        (
            name,
            step_name,
            f"{speed:,.0f}",
            f"{speed / speeds['ours']:.2f}",
            f"{_difference(gradients[step_name], gradients['ours']):.1e}",
        )
        for step_name, speed in speeds.items()
    ]


def plain_step(hf_model: Any, batch: torch.Tensor) -> tuple[Step, Callable[[], list[Any]]]:
    """Return the published training step in plain torch, and what gives its first gradients."""
    config = hf_model.config
    width, n_layers = config.hidden_size, config.num_hidden_layers
    maps = nn.ModuleList(nn.Linear(width, width) for _ in range(n_layers)).to(batch.device)
    for parameter in maps.parameters():
        nn.init.zeros_(parameter)
    norm = hf_model.transformer.ln_f if hasattr(hf_model, "transformer") else hf_model.model.norm
    head = hf_model.lm_head

    def lens(index: int, states: torch.Tensor) -> torch.Tensor:
        return head(norm(states + maps[index](states)))

    return _published(hf_model, batch, lens, maps), lambda: _first_gradients(maps)


def package_step(hf_model: Any, batch: torch.Tensor) -> tuple[Step, Callable[[], list[Any]]] | None:
    """Return the same step with the package's own lens, or None where it is not installed."""
    try:
        published: Any = importlib.import_module("tuned_lens")
        make = published.TunedLens
    except (ImportError, AttributeError):
        return None
    lens = make.from_model(hf_model).to(batch.device)
    maps = lens.layer_translators
    step = _published(hf_model, batch, lambda index, states: lens(states, idx=index), maps)
    return step, lambda: _first_gradients(maps)


def _published(
    hf_model: Any,
    batch: torch.Tensor,
    lens: Callable[[int, torch.Tensor], torch.Tensor],
    maps: Any,
) -> Step:
    parameters = list(maps.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)

    def step() -> None:
        with torch.no_grad():
            outcome = hf_model(batch, output_hidden_states=True)
        target = outcome.logits.float().log_softmax(-1)
        for index, states in enumerate(outcome.hidden_states[:-1]):
            own = lens(index, states).log_softmax(-1)
            loss = (target.exp() * (target - own)).sum(-1).mean()
            loss.item()
            loss.backward()
        if not hasattr(maps, "first_gradients"):
            maps.first_gradients = [module.weight.grad.clone() for module in maps]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

    return step


def _first_gradients(maps: Any) -> list[torch.Tensor]:
    return maps.first_gradients


def _difference(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    largest = max(gradient.abs().max() for gradient in expected)
    return max(float((f - e).abs().max() / largest) for f, e in zip(found, expected, strict=True))


if __name__ == "__main__":
    main()
