"""Running planted models by hand: plain Hugging Face, with parts taken out by forward hooks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import cache
from typing import Any

import torch

from experiments.planted.circuits import N_HEADS, N_LAYERS
from experiments.planted.models import PlantedModel
from experiments.planted.vocabulary import WORDS, build_tokenizer
from iglens_tl.results.segments import parse_segment

PARTS = tuple(
    f"L{layer}.{part}"
    for layer in range(N_LAYERS)
    for part in ("mlp", *(f"H{head}" for head in range(N_HEADS)))
)
"""All parts of the blocks."""


@cache
def tokenizer() -> Any:
    return build_tokenizer()


def token_ids(model: PlantedModel) -> torch.Tensor:
    return torch.tensor([tokenizer()(model.prompt)["input_ids"]])


def logits_without(hf: Any, model: PlantedModel, parts: Sequence[str] = ()) -> torch.Tensor:
    """Return the next token's logits when some MLPs and heads write nothing, at all positions."""
    with ExitStack() as hooks:
        for label in parts:
            hooks.callback(_silence(hf, label).remove)
        with torch.no_grad():
            return hf(token_ids(model)).logits[0, -1].double()


def p_of_answer(hf: Any, model: PlantedModel, without: Sequence[str] = ()) -> float:
    logits = logits_without(hf, model, without)
    return logits.softmax(-1)[WORDS.index(model.answer)].item()


def _silence(hf: Any, label: str) -> Any:
    part = parse_segment(label)
    block = hf.transformer.h[part.layer]
    if part.part == "mlp":
        return block.mlp.register_forward_hook(lambda module, inputs, output: output * 0)
    width = hf.config.n_embd // N_HEADS

    def zero_head(module: Any, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        z = inputs[0].clone()
        z[..., part.head * width : (part.head + 1) * width] = 0
        return (z,)

    return block.attn.c_proj.register_forward_pre_hook(zero_head)
