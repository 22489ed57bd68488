"""What a comparison of the state-based lenses costs beside its dearest lens.

Run with `python -m experiments.benchmarks.comparison`. The lenses of a comparison share the forward
pass, and states that several of them read are multiplied with W_U once. A tuned lens reads states
of its own, one for each layer, so where the readout outweighs the forward pass a comparison costs
up to twice its dearest lens; where a text is longer than its answer, the forward pass outweighs.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table

from experiments.common.timing import fastest_in_turns, machine
from iglens_tl import Translators, compare, load_model
from iglens_tl.models.loading import DEMO_FOLDER

LENSES = ("logit_lens", "tuned_lens", "direct_logit_attribution", "ig_lens")
REPEATS = 5
CASES = {
    "8 answer tokens after 504": (504, 8),
    "every next token of 128": (128, None),
}


def main() -> None:
    """Measure and print the table."""
    table = Table(title=f"four lenses on one forward pass, {machine()}")
    for column in ("model", "targets", "dearest lens", "seconds", "comparison", "ratio", "aim"):
        table.add_column(column, justify="left" if column in ("model", "targets") else "right")
    for name, model in {"demo": load_model("demo"), "random Llama": random_llama()}.items():
        for case, (n_prompt, n_answer) in CASES.items():
            table.add_row(name, case, *measure(model, n_prompt, n_answer), "≤ 1.30")
    Console(width=120).print(table)


def measure(model: Any, n_prompt: int, n_answer: int | None) -> tuple[str, ...]:
    """Compare the four lenses with each of them alone."""
    n_ctx = min(model.cfg.n_ctx, n_prompt + (n_answer or 0))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, model.cfg.d_vocab, (n_ctx,), generator=generator).tolist()
    prompt, answer = (ids, None) if n_answer is None else (ids[:-n_answer], ids[-n_answer:])
    lens = Translators.zeros(model.cfg.n_layers, model.cfg.d_model, str(model.cfg.model_name))
    options: dict[str, dict[str, Any]] = {name: {} for name in LENSES}
    options["tuned_lens"] = {"lens": lens}
    runs = {name: {name: options[name]} for name in LENSES} | {"all": options}
    seconds = fastest_in_turns(
        {
            name: lambda lenses=lenses: compare(model, prompt, answer=answer, lenses=lenses)
            for name, lenses in runs.items()
        },
        REPEATS,
    )
    together = seconds.pop("all")
    dearest = max(seconds, key=lambda name: seconds[name])
    ratio = together / seconds[dearest]
    return dearest, f"{seconds[dearest]:.3f}", f"{together:.3f}", f"{ratio:.2f}"


def random_llama() -> Any:
    """Return a random Llama of 12 layers, width 768 and 16,000 tokens."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=16_000,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=4,
        intermediate_size=2048,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
        for path in Path(DEMO_FOLDER).glob("tokenizer*"):
            shutil.copy(path, folder)
        return load_model(folder)


if __name__ == "__main__":
    main()
