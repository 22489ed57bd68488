"""Time and memory of one lens on random models of several sizes, in a process of its own.

The lens runs on one size after the other. Memory that was freed is given back to the system before
each run, as a process would otherwise use it again unseen.
"""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import transformers
from transformer_lens.tools.analysis import JacobianLens

from experiments.common.memory import extra_memory_mb
from iglens_tl import (
    Translators,
    components,
    direct_logit_attribution,
    ig_lens,
    jacobian_lens,
    layer_conductance,
    layer_integrated_gradients,
    load_model,
    logit_lens,
    tuned_lens,
)
from iglens_tl.models import ModelAdapter, adapt
from iglens_tl.models.loading import DEMO_FOLDER

FORWARD = "forward pass"
DELTA = "ig_lens, delta"
JACOBIAN = "jacobian_lens"
N_TARGETS = 4
N_STEPS = 4
_WIDTH = 128
_WARM_UP = 12
_REPEATS = 2
_SLOW = 0.5


@dataclass(frozen=True)
class Size:
    """The size of a model and a text.

    Attributes:
        tokens: Length of the text; its last `N_TARGETS` are attributed.
        layers: Number of blocks.
        vocabulary: Number of tokens that the model knows, at least the tokenizer's 4,096.
    """

    tokens: int
    layers: int
    vocabulary: int


def _tuned(adapter: ModelAdapter, prompt: list[int], **choice: Any) -> object:
    lens = _untrained(adapter.n_layers, adapter.readout.d_model, adapter.name)
    return tuned_lens(adapter, prompt, lens=lens, **choice)


@cache
def _untrained(n_layers: int, d_model: int, name: str) -> Translators:
    # The same object every time, as a lens is tried out when it is first used with a model.
    return Translators.zeros(n_layers, d_model, name)


def _jacobian(adapter: ModelAdapter, prompt: list[int], **choice: Any) -> object:
    lens = _unfitted(adapter.n_layers, adapter.readout.d_model)
    return jacobian_lens(adapter, prompt, lens=lens, **choice)


@cache
def _unfitted(n_layers: int, d_model: int) -> JacobianLens:
    identities = {layer: torch.eye(d_model) for layer in range(n_layers - 1)}
    return JacobianLens(identities, n_prompts=1, d_model=d_model)


def _forward(adapter: ModelAdapter, prompt: list[int], *, answer: list[int]) -> object:
    with torch.inference_mode():
        return adapter.model(torch.tensor([prompt + answer]))


METHODS: dict[str, Callable[..., object]] = {
    FORWARD: _forward,
    DELTA: ig_lens,
    "ig_lens, gradient": partial(ig_lens, estimator="gradient"),
    "ig_lens, riemann 64": partial(ig_lens, estimator="riemann"),
    "heads, gradient": partial(components, by="head"),
    "heads, ps_ig": partial(components, by="head", estimator="ps_ig"),
    "heads, idgi": partial(components, by="head", estimator="idgi"),
    "logit_lens": logit_lens,
    "tuned_lens": _tuned,
    JACOBIAN: _jacobian,
    "direct logit attribution": direct_logit_attribution,
    f"layer_conductance, {N_STEPS} steps": partial(layer_conductance, n_steps=N_STEPS),
    f"layer_integrated_gradients, {N_STEPS} steps": partial(
        layer_integrated_gradients, n_steps=N_STEPS
    ),
}
"""What is measured, with the lenses' defaults otherwise; tuned and Jacobian lens are untrained."""


def measure_all(methods: Sequence[str], sizes: Sequence[Size]) -> list[dict[str, Any]]:
    """Measure methods one after the other, each in a new process."""
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        jobs = [(method, sizes) for method in methods]
        return list(chain.from_iterable(pool.imap(measure_method, jobs, chunksize=1)))


def measure_method(job: tuple[str, Sequence[Size]]) -> list[dict[str, Any]]:
    """Measure one method on all sizes."""
    torch.set_num_threads(1)
    method, sizes = job
    print(f"measuring {method}", file=sys.stderr, flush=True)
    return [measure(method, size) for size in sizes]


def measure(method: str, size: Size) -> dict[str, Any]:
    """Return a method's seconds (the fastest of some runs) and the memory that it takes in MB."""
    # The Jacobian lens takes no HookedTransformer.
    backend = "bridge" if method == JACOBIAN else "auto"
    adapter = adapt(random_model(size, backend))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, size.vocabulary, (size.tokens,), generator=generator).tolist()
    # What is imported late and checked once is no cost of a lens.
    _run(method, adapter, ids[:_WARM_UP])
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    seconds: list[float] = []

    def run() -> None:
        start = time.perf_counter()
        _run(method, adapter, ids)
        seconds.append(time.perf_counter() - start)

    memory = extra_memory_mb(run)
    while len(seconds) < _REPEATS and seconds[0] < _SLOW:
        run()
    return {"method": method, **asdict(size), "seconds": min(seconds), "memory_mb": memory}


def random_model(size: Size, backend: str = "auto") -> Any:
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
        return load_model(folder, backend=backend)


def _run(method: str, adapter: ModelAdapter, ids: list[int]) -> object:
    return METHODS[method](adapter, ids[:-N_TARGETS], answer=ids[-N_TARGETS:])
