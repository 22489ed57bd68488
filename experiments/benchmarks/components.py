"""What splitting every layer's credit costs, on a random model of Llama-3.2-1B's shape.

Run with `python -m experiments.benchmarks.components` (about ten minutes and 12 GB of memory;
`--targets 8` gives a quick impression). The targets are tokens that the model itself makes most
probable, so that credits are large. Every ratio is of two things measured in this run; autograd is
measured on a few of the targets, and its time is given for as many as the others.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
from functools import partial
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table
from transformer_lens.model_bridge import TransformerBridge

from experiments.benchmarks.denormals import without_denormals
from experiments.common.memory import extra_memory_mb
from experiments.common.timing import fastest_in_turns, machine, timed
from iglens_tl import components, ig_lens
from iglens_tl.models import ModelAdapter, adapt, capture
from iglens_tl.models.loading import DEMO_FOLDER

N_LAYERS, N_HEADS, D_MODEL, D_VOCAB = 16, 32, 2048, 128_256
AUTOGRAD_STEPS = 64
PEAKEDNESS = 8.0
MEMORY_LIMIT_MB = 600


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", type=int, default=64)
    parser.add_argument("--autograd-targets", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    adapter = random_model(options.device)
    ids = greedy_text(adapter, options.targets)
    if options.memory_of:
        print(memory_of(adapter, ids, options.memory_of))
        return
    console = Console(width=130)
    table = Table(
        title=f"{N_LAYERS} layers, {N_HEADS} heads, {D_VOCAB:,} tokens; {machine(options.device)}"
    )
    for column in ("measured", "seconds", "beside", "seconds", "ratio", "aim"):
        table.add_column(column, justify="left" if column in ("measured", "beside") else "right")
    for row in speed_rows(adapter, ids, options):
        table.add_row(*row)
    console.print(table)
    if options.device == "cpu":
        del adapter
        gc.collect()
        console.print(memory_table(options.targets))


def speed_rows(adapter: ModelAdapter, ids: list[int], options: Any) -> list[tuple[str, ...]]:
    """Compare the splits with `delta` and with autograd."""
    runs = {
        "delta": partial(ig_lens, adapter, ids, top_k=0),
        "head": partial(components, adapter, ids, by="head"),
        "head_source": partial(components, adapter, ids, by="head_source"),
    }
    seconds = fastest_in_turns(runs, options.repeats)
    found = runs["head"]()
    print(f"{len(ids) - 1} targets; largest error {abs(found.completeness_error).max():.1e}")
    print(f"final probabilities from {found.final.min():.3f} to {found.final.max():.3f}")
    n_autograd = min(options.autograd_targets, len(ids) - 1)
    autograd, worst = timed(lambda: autograd_heads(adapter, ids, n_autograd, found))
    print(f"autograd differs from the heads' credits by up to {worst:.1e}")
    scaled = autograd / n_autograd * (len(ids) - 1)
    rows = [
        ("all heads", "head", "delta", seconds["delta"], "≤ 3"),
        ("all heads and sources", "head_source", "all heads", seconds["head"], "≤ 1.5"),
    ]
    table = [
        (what, f"{seconds[run]:.2f}", beside, f"{other:.2f}", f"{seconds[run] / other:.2f}", aim)
        for what, run, beside, other, aim in rows
    ]
    what = f"autograd, {AUTOGRAD_STEPS} steps (of {n_autograd})"
    head = seconds["head"]
    return [
        *table,
        (what, f"{scaled:.0f}", "all heads", f"{head:.2f}", f"{scaled / head:.0f}", "≥ 30"),
    ]


def autograd_heads(adapter: ModelAdapter, ids: list[int], n_targets: int, found: Any) -> float:
    """Integrate gradients by backward passes through the readout and split them over heads.

    Returns:
        The largest difference from the found credits.
    """
    sites = [adapter.embed_site, *(adapter.post_site(layer) for layer in range(N_LAYERS))]
    heads = [adapter.head_site(layer) for layer in range(N_LAYERS)]
    readers = {site: lambda states: states[0].float() for site in [*sites, *heads]}
    kept = capture(adapter, torch.tensor([ids]), readers)
    at = (torch.arange(AUTOGRAD_STEPS, device=adapter.readout.device) + 0.5) / AUTOGRAD_STEPS
    worst = 0.0
    for target in range(n_targets):
        for layer in range(N_LAYERS):
            start, end = kept[sites[layer]][target], kept[sites[layer + 1]][target]
            points = torch.lerp(start, end, at[:, None]).requires_grad_()
            logits = adapter.readout.logits(points)
            logits.register_hook(without_denormals)
            probs = logits.log_softmax(-1)[:, ids[target + 1]].exp()
            (gradients,) = torch.autograd.grad(probs.sum(), points)
            weight = adapter.model.blocks[layer].attn.W_O.detach()
            before = torch.einsum("hdm,m->hd", weight, gradients.mean(0))
            credits = (kept[heads[layer]][target] * before).sum(1)
            first = found.segments.index(f"L{layer}.H0")
            own = torch.tensor(found.values[target, first : first + N_HEADS].copy())
            worst = max(worst, float((credits.cpu() - own).abs().max()))
    return worst


def random_model(device: str) -> ModelAdapter:
    """Return a random Llama of Llama-3.2-1B's shape with peaked predictions."""
    torch.manual_seed(0)
    attention: dict[str, Any] = {"attn_implementation": "eager"}
    config = transformers.LlamaConfig(
        vocab_size=D_VOCAB,
        hidden_size=D_MODEL,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        num_key_value_heads=8,
        intermediate_size=8192,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        **attention,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.model.norm.weight.mul_(PEAKEDNESS)
    tokenizer = transformers.AutoTokenizer.from_pretrained(DEMO_FOLDER)
    options = {"hf_model": model, "tokenizer": tokenizer, "device": device}
    return adapt(TransformerBridge.boot_transformers("random-llama", **options))


def greedy_text(adapter: ModelAdapter, n_targets: int) -> list[int]:
    """Return a text in which every token is the one that the model makes most probable."""
    result = ig_lens(adapter, [4], generate=n_targets, top_k=0, layers=[0])
    return [4, *(target.token_id for target in result.targets)]


def memory_table(n_targets: int) -> Table:
    """Measure peak memory beyond weights, each split in a process of its own."""
    table = Table(
        title=f"extra memory beyond the model, {n_targets} targets (aim: ≤ {MEMORY_LIMIT_MB} MB)"
    )
    table.add_column("split")
    table.add_column("MB", justify="right")
    for by in ("head", "head_source"):
        command = [sys.executable, "-m", "experiments.benchmarks.components", "--memory-of", by]
        command += ["--targets", str(n_targets)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        table.add_row(by, f"{float(printed.split()[-1]):.0f}")
    return table


def memory_of(adapter: ModelAdapter, ids: list[int], by: str) -> float:
    """Return the extra memory of a split in MB, after a short run that does not count."""
    components(adapter, ids[:3], by=by)
    return extra_memory_mb(lambda: components(adapter, ids, by=by))


if __name__ == "__main__":
    main()
