"""Heads of latent attention, which TransformerLens cuts at another width than the heads have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from iglens_tl import layer_effects, load_model
from tests.support.cases import IDS
from tests.support.families import D_VOCAB, Family, write_folder

REFERENCE = [[1, 3, 77, 20, 55], [1, 90, 4, 4, 33, 52, 60, 11, 7, 7, 81, 15]]
_SIZES = {
    "vocab_size": D_VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
# The width of a head's values is none of the other widths, or the one that TransformerLens takes.
FAMILIES = [
    Family(f"{name}_{width}", architecture, _SIZES | {"v_head_dim": width}, hooked=False)
    for name, architecture in (
        ("deepseek_v2", "DeepseekV2ForCausalLM"),
        ("deepseek_v3", "DeepseekV3ForCausalLM"),
    )
    for width in (6, 8, 12)
]


def probs_without(model, ids, *, layer=None, head=None, update=None) -> torch.Tensor:
    """Return every next token's probability by Hugging Face, a head's values replaced after pos 0.

    Args:
        model: A Hugging Face model.
        ids: The text.
        layer: The head's layer; None for the untouched model.
        head: The head.
        update: What it passes to the output projection instead.
    """

    def replace(module, inputs):
        values = inputs[0].clone()
        width = values.shape[-1] // model.config.num_attention_heads
        values[:, 1:, head * width : (head + 1) * width] = update
        return (values,)

    handles = []
    if layer is not None:
        projection = model.model.layers[layer].self_attn.o_proj
        handles.append(projection.register_forward_pre_hook(replace))
    try:
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, :-1].double()
    finally:
        for handle in handles:
            handle.remove()
    return logits.softmax(-1)[torch.arange(len(ids) - 1), ids[1:]]


def mean_values(model, layer, head) -> torch.Tensor:
    """Return the mean of what a head passes on in the reference texts, without first tokens."""
    kept = []
    projection = model.model.layers[layer].self_attn.o_proj
    handle = projection.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0][0, 1:]))
    with torch.no_grad():
        for ids in REFERENCE:
            model(torch.tensor([ids]))
    handle.remove()
    return torch.cat(kept).unflatten(1, (model.config.num_attention_heads, -1))[:, head].mean(0)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
@pytest.mark.parametrize("intervention", ["skip", "mean"])
def test_each_head_is_the_one_that_hugging_face_has(family, intervention, tmp_path):
    folder = write_folder(family, tmp_path, dtype=torch.float64)
    plain = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, experts_implementation="eager"
    ).eval()
    untouched = probs_without(plain, IDS)
    columns = []
    for layer in range(2):
        for head in range(4):
            update = 0.0 if intervention == "skip" else mean_values(plain, layer, head)
            without = probs_without(plain, IDS, layer=layer, head=head, update=update)
            columns.append(untouched - without)
    expected = torch.stack(columns, dim=1).numpy()
    model = load_model(folder, backend="bridge", dtype="float64")
    reference = {} if intervention == "skip" else {"reference": REFERENCE}
    found = layer_effects(model, IDS, by="head", intervention=intervention, **reference)
    assert found.segments == tuple(f"L{layer}.H{head}" for layer in range(2) for head in range(4))
    assert np.abs(expected).max(axis=0).min() > 1e-6, "a head does nothing"
    # Norms and routers of Hugging Face compute in float32, also here.
    np.testing.assert_allclose(found.values, expected, atol=1e-6)
