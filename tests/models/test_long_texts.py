"""Texts longer than every window, chunk and rotary context, beside plain Hugging Face."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from iglens_tl import ig_lens, load_model
from iglens_tl.models.probing import named_lengths
from tests.support.cases import TL_VERSION
from tests.support.families import FAMILIES, build_tokenizer

_YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 1e4,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 1e4,
}
_LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "rope_theta": 1e4,
}
_QWEN = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}
LENGTHS = {
    "llama": [{"rope_parameters": _LLAMA3}, {"rope_parameters": _YARN}],
    "mistral": [{"sliding_window": 16}],
    "gemma2": [{"sliding_window": 16}],
    "gemma3": [{"sliding_window": 16}],
    "qwen2": [_QWEN, {"rope_parameters": _YARN}],
    "qwen3": [_QWEN],
    "phi3": [
        {"sliding_window": 16},
        {"original_max_position_embeddings": 16, "rope_parameters": _LONGROPE},
    ],
    "mixtral": [{"sliding_window": 16}],
    "gpt_neox_parallel": [{"rope_parameters": _YARN}],
    "gpt_neox_sequential": [{"rope_parameters": _LLAMA3}],
    "olmo2": [{"rope_parameters": _YARN}],
    "granite": [{"rope_parameters": _LLAMA3}],
    "olmoe": [{"rope_parameters": {"rope_type": "default", "rope_theta": 100.0}}],
    "olmo3": [{"sliding_window": 16}],
    "starcoder2": [{"sliding_window": 16}],
    "gpt_oss": [{"sliding_window": 16}],
    "exaone4": [{"sliding_window": 16}],
    "smollm3": [_QWEN],
    "llama4": [{"attention_chunk_size": 16}],
}
"""By family, options with lengths below the text's. Families that name none run at full context."""

TEXT = torch.randint(0, 97, (60,), generator=torch.Generator().manual_seed(2)).tolist()


def cases():
    for family in FAMILIES:
        # TransformerLens 3.9 computes another attention than Hugging Face for Cohere.
        if family.name == "cohere" and TL_VERSION.startswith("3."):
            continue
        for number, options in enumerate(LENGTHS.get(family.name, [{}])):
            # Copied, because configurations write into what they are given.
            longer = replace(family, options=family.options | deepcopy(options))
            yield pytest.param(longer, id=f"{family.name}-{number}")


def own_probs(hf_model) -> np.ndarray:
    """Return plain Hugging Face's probabilities of the next tokens of the text."""
    with torch.no_grad():
        probs = hf_model(torch.tensor([TEXT])).logits[0, :-1].double().softmax(-1)
    return probs.gather(1, torch.tensor(TEXT[1:])[:, None])[:, 0].numpy()


@pytest.mark.parametrize("family", list(cases()))
def test_a_long_text_has_hugging_faces_probabilities(family, tmp_path):
    hf_model = family.build()
    expected = own_probs(hf_model)
    longest = max((n for n in named_lengths(hf_model.config) if n < 64), default=0)
    assert longest < len(TEXT) - 16
    hf_model.save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    for model in (load_model(tmp_path), hf_model):
        np.testing.assert_allclose(ig_lens(model, TEXT).final, expected, atol=5e-6)
