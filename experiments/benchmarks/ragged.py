"""What texts of different length cost beside texts of equal length.

Run with `python -m experiments.benchmarks.ragged`. As many texts, with as many tokens in all, are
measured by a lens once with lengths of 20 to 120 tokens and once with their mean length. Tokens are
those of the texts; padding does not count. "Equal only" is what ragged texts cost if only those of
equal length share a forward pass.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.comparison import random_llama
from experiments.common.timing import fastest_in_turns, machine
from iglens_tl import ig_lens, load_model, logit_lens
from iglens_tl import trace as trace_module
from iglens_tl.models import adapt
from iglens_tl.models.batching import batches_of_equal_length

SHORTEST, LONGEST = 20, 120
AIM = 0.9
LENSES: dict[str, Callable[..., Any]] = {
    "logit_lens": partial(logit_lens, top_k=0),
    "ig_lens": partial(ig_lens, top_k=0),
}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--models", default="demo,random Llama")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    title = f"{options.texts} texts of {SHORTEST} to {LONGEST} tokens, {machine()}"
    table = Table(title=title)
    for column in ("model", "lens"):
        table.add_column(column)
    for column in ("ragged, tokens/s", "equal, tokens/s", "ratio", "aim", "equal only, ratio"):
        table.add_column(column, justify="right")
    models = {"demo": lambda: load_model("demo"), "random Llama": random_llama}
    for name in options.models.split(","):
        model = models[name]()
        for lens in LENSES:
            row = measure(model, LENSES[lens], options.texts, options.repeats)
            table.add_row(name, lens, *row[:3], f"≥ {AIM}", row[3])
    Console(width=110).print(table)


def measure(model: Any, lens: Callable[..., Any], n_texts: int, repeats: int) -> tuple[str, ...]:
    """Time a lens on ragged and on equal texts, in turns."""
    adapter = adapt(model)
    ragged, equal = texts_of(adapter.d_vocab, n_texts)
    # One candidate after each text: the forward pass is what is compared.
    run = partial(lens, adapter, targets=[5])
    seconds = fastest_in_turns(
        {
            "ragged": partial(run, ragged),
            "equal": partial(run, equal),
            "equal only": partial(run_apart, run, ragged),
        },
        repeats,
    )
    n_tokens = {"equal": sum(map(len, equal))}
    speed = {name: n_tokens.get(name, sum(map(len, ragged))) / seconds[name] for name in seconds}
    return (
        f"{speed['ragged']:,.0f}",
        f"{speed['equal']:,.0f}",
        f"{speed['ragged'] / speed['equal']:.2f}",
        f"{speed['equal only'] / speed['equal']:.2f}",
    )


def texts_of(d_vocab: int, n_texts: int) -> tuple[list[list[int]], list[list[int]]]:
    """Return random texts of all lengths, and as many of their mean length."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(SHORTEST, LONGEST + 1, (n_texts,), generator=generator)
    mean = round(float(lengths.float().mean()))

    def text(length: int) -> list[int]:
        return torch.randint(4, d_vocab, (length,), generator=generator).tolist()

    return [text(length) for length in lengths.tolist()], [text(mean) for _ in range(n_texts)]


def run_apart(run: Callable[[list[list[int]]], Any], texts: list[list[int]]) -> Any:
    """Measure texts of which only those of equal length share a forward pass."""
    with _unpadded():
        return run(texts)


@contextmanager
def _unpadded() -> Iterator[None]:
    usual = trace_module.shared_passes

    def apart(adapter: Any, texts: Any, *, tokens_per_pass: int) -> list[list[int]]:
        del adapter
        return batches_of_equal_length([len(ids) for ids in texts], tokens_per_pass)

    trace_module.shared_passes = apart
    try:
        yield
    finally:
        trace_module.shared_passes = usual


if __name__ == "__main__":
    main()
