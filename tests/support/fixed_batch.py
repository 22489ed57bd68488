"""Toy architectures whose blocks cannot run another number of texts than the first one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from iglens_tl import load_model
from tests.support.families import D_VOCAB, Family, build_tokenizer, write_folder

ALIBI = {
    "vocab_size": D_VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "alibi": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FIXED_BATCH = (
    Family(
        "bloom",
        "BloomForCausalLM",
        {
            "vocab_size": D_VOCAB,
            "hidden_size": 32,
            "n_layer": 3,
            "n_head": 4,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    Family("falcon_alibi", "FalconForCausalLM", ALIBI | {"parallel_attn": True}),
    Family("falcon_alibi_sequential", "FalconForCausalLM", ALIBI | {"parallel_attn": False}),
    Family(
        "xglm",
        "XGLMForCausalLM",
        {
            "vocab_size": D_VOCAB,
            "d_model": 32,
            "num_layers": 3,
            "attention_heads": 4,
            "ffn_dim": 48,
            "max_position_embeddings": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        },
    ),
)
"""Architectures whose blocks all need the batch that the first one had."""


def load_eager(family: Family, folder: Path) -> Any:
    """Return a bridge over a toy model whose user chose eager attention.

    With the attention that Hugging Face chooses by itself, Falcon with ALiBi is refused.
    """
    write_folder(family, folder)
    return load_model(
        AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager"),
        tokenizer=build_tokenizer(),
    )
