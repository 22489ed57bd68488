"""Time and memory of one lens on one random model, each in a process of its own.

The processes are forks of one that has imported everything and computed nothing (a fork server), so
that each measures fresh memory without the seconds that imports take.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import transformers

from experiments.benchmarks.measuring import extra_memory_mb
from iglens_tl import (
    Translators,
    components,
    direct_logit_attribution,
    ig_lens,
    layer_conductance,
    layer_integrated_gradients,
    load_model,
    logit_lens,
    tuned_lens,
)
from iglens_tl.models import ModelAdapter, adapt
from iglens_tl.models.adapter import bridge_class, hooked_transformer_class
from iglens_tl.models.loading import DEMO_FOLDER

N_TARGETS = 8
_WIDTH = 128
_WARM_UP = 12
_REPEATS = 3


@dataclass(frozen=True)
class Size:
    """The size of a model and a text.

    Attributes:
        tokens: Length of the text; its last `N_TARGETS` are attributed.
        layers: Number of blocks.
        vocabulary: Number of tokens that the model knows.
    """

    tokens: int
    layers: int
    vocabulary: int


def _tuned(adapter: ModelAdapter, prompt: list[int], **choice: Any) -> object:
    lens = Translators.zeros(adapter.n_layers, adapter.readout.d_model, adapter.name)
    return tuned_lens(adapter, prompt, lens=lens, **choice)


METHODS: dict[str, Callable[..., object]] = {
    "ig_lens, delta": ig_lens,
    "ig_lens, gradient": lambda *a, **k: ig_lens(*a, estimator="gradient", **k),
    "ig_lens, riemann 64": lambda *a, **k: ig_lens(*a, estimator="riemann", **k),
    "components, heads": lambda *a, **k: components(*a, by="head", **k),
    "logit_lens": logit_lens,
    "tuned_lens": _tuned,
    "direct logit attribution": direct_logit_attribution,
    "layer_conductance": layer_conductance,
    "layer_integrated_gradients": layer_integrated_gradients,
}
"""What is measured, with the defaults of each lens; the tuned lens has untrained maps."""


def measure_all(jobs: Sequence[tuple[str, Size]]) -> list[dict[str, Any]]:
    """Measure methods on sizes, one after the other."""
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with context.Pool(1, maxtasksperchild=1) as pool:
        return list(pool.imap(measure, jobs, chunksize=1))


def measure(job: tuple[str, Size]) -> dict[str, Any]:
    """Return a method's seconds (the fastest of some runs) and the memory that it takes in MB."""
    method, size = job
    torch.set_num_threads(1)
    adapter = adapt(random_model(size))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, size.vocabulary, (size.tokens,), generator=generator).tolist()
    # What is imported late and checked once is no cost of a lens.
    _run(method, adapter, ids[:_WARM_UP])
    memory = extra_memory_mb(lambda: _run(method, adapter, ids))
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        _run(method, adapter, ids)
        seconds.append(time.perf_counter() - start)
    return {"method": method, **asdict(size), "seconds": min(seconds), "memory_mb": memory}


def random_model(size: Size) -> Any:
    """Return a random Llama."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=_WIDTH,
        num_hidden_layers=size.layers,
        num_attention_heads=4,
        intermediate_size=2 * _WIDTH,
        max_position_embeddings=max(size.tokens, 64),
        tie_word_embeddings=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        transformers.LlamaForCausalLM(config).save_pretrained(folder)
        for path in Path(DEMO_FOLDER).glob("tokenizer*"):
            shutil.copy(path, folder)
        return load_model(folder)


def _run(method: str, adapter: ModelAdapter, ids: list[int]) -> object:
    return METHODS[method](adapter, ids[:-N_TARGETS], answer=ids[-N_TARGETS:])


# Imported with the module, so that the fork server has them.
hooked_transformer_class()
bridge_class()
