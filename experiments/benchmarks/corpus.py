"""What a corpus costs beside the bare passes and products of its tokens.

Run with `python -m experiments.benchmarks.corpus`. Texts of 20 to 120 tokens are measured and their
rows written, by a run in this process. Beside it stand a bare forward pass over as many tokens in
dense batches, without hooks, padding or the unembedding, and the product of a row for each state of
the path with the unembedding. Tokens are those of the texts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.comparison import random_llama
from experiments.benchmarks.ragged import texts_of
from experiments.common.timing import fastest_in_turns, machine
from iglens_tl import IGLens, load_model
from iglens_tl.corpus import Columns, Measurement, open_source, run_corpus
from iglens_tl.models import adapt

AIM = 0.9
_TOKENS_PER_PASS = 4096
_ROWS_AT_ONCE = 4096


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--models", default="demo,random Llama")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table(title=f"{options.texts} texts of 20 to 120 tokens, {machine()}")
    table.add_column("model")
    for column in ("corpus, tokens/s", "bare, tokens/s", "ratio", "aim", "bytes a target"):
        table.add_column(column, justify="right")
    models = {"demo": lambda: load_model("demo"), "random Llama": random_llama}
    for name in options.models.split(","):
        row = measure(models[name](), options.texts, options.repeats)
        table.add_row(name, *row[:3], f"≥ {AIM}", row[3])
    Console(width=100).print(table)


def measure(model: Any, n_texts: int, repeats: int) -> tuple[str, ...]:
    """Time a run over a corpus and the bare passes and products of its tokens, in turns."""
    adapter = adapt(model)
    ragged, equal = texts_of(adapter.d_vocab, n_texts)
    measurement = Measurement(lenses={"ig_lens": IGLens(top_k=0)})
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "texts.jsonl"
        path.write_text("".join(f"{json.dumps(ids)}\n" for ids in ragged), encoding="utf-8")
        source, out = open_source(path, columns=Columns()), Path(place) / "out"

        def run() -> None:
            shutil.rmtree(out, ignore_errors=True)
            run_corpus(source, adapter, out, measurement)

        seconds = fastest_in_turns({"corpus": run, "bare": lambda: bare(adapter, equal)}, repeats)
        n_bytes = sum(part.stat().st_size for part in (out / "parts").iterdir())
    n_tokens = {"corpus": sum(map(len, ragged)), "bare": sum(map(len, equal))}
    speed = {name: n_tokens[name] / seconds[name] for name in seconds}
    n_targets = n_tokens["corpus"] - n_texts
    return (
        f"{speed['corpus']:,.0f}",
        f"{speed['bare']:,.0f}",
        f"{speed['corpus'] / speed['bare']:.2f}",
        f"{n_bytes / n_targets:.1f}",
    )


@torch.no_grad()
def bare(adapter: Any, texts: list[list[int]]) -> None:
    """Run the model over texts of equal length, and multiply a row for each state with W_U."""
    readout = adapter.readout
    tokens = torch.tensor(texts, device=adapter.device)
    for batch in tokens.split(max(1, _TOKENS_PER_PASS // tokens.shape[1])):
        adapter.model(batch, return_type=None)
    # One for every block, the embedding and the baseline.
    n_rows = tokens.numel() * (adapter.n_layers + 2)
    rows = torch.randn(_ROWS_AT_ONCE, readout.d_model, device=readout.device, dtype=readout.dtype)
    unembed = readout.unembed.to(readout.dtype)
    product = torch.empty(_ROWS_AT_ONCE, readout.d_vocab, device=rows.device, dtype=rows.dtype)
    for first in range(0, n_rows, _ROWS_AT_ONCE):
        number = min(_ROWS_AT_ONCE, n_rows - first)
        torch.mm(rows[:number], unembed, out=product[:number])


if __name__ == "__main__":
    main()
