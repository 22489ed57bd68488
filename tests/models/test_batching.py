"""Texts of different length in one forward pass, beside the same texts one by one."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from iglens_tl import components, ig_lens, load_model
from iglens_tl.models import adapt
from iglens_tl.models.batching import (
    PASS_OVERHEAD,
    batches_of_equal_length,
    batches_of_similar_length,
    cut_padding,
    pad_right,
    padding_is_harmless,
    shared_passes,
)
from tests.support.cases import EVERY_MODEL, EVERY_MODEL_AND_DTYPE, HAS_HOOKED
from tests.support.closeness import assert_identical
from tests.support.families import D_VOCAB, Family, write_folder
from tests.support.fixed_batch import load_eager
from tests.support.native import native_bridge, native_hooked

LENGTHS = (3, 11, 7, 40, 20, 7)


def texts_of(lengths: tuple[int, ...]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [
        [1, *torch.randint(4, D_VOCAB, (length - 1,), generator=generator).tolist()]
        for length in lengths
    ]


TEXTS = texts_of(LENGTHS)

ALIBI = [
    Family(
        "falcon_alibi",
        "FalconForCausalLM",
        {
            "vocab_size": D_VOCAB,
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "alibi": True,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
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
    Family(
        "mpt",
        "MptForCausalLM",
        {"vocab_size": D_VOCAB, "d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 64},
    ),
]
"""Models whose attention depends on distances, which Hugging Face computes from masks."""

_ROPE = {
    "vocab_size": D_VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
ROPE_BY_LENGTH = [
    Family(
        "llama_dynamic_ntk",
        "LlamaForCausalLM",
        _ROPE
        | {
            "max_position_embeddings": 16,
            "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4},
        },
    ),
    Family(
        "phi3_longrope",
        "Phi3ForCausalLM",
        _ROPE
        | {
            "max_position_embeddings": 64,
            "original_max_position_embeddings": 16,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "short_factor": [1.0] * 4,
                "long_factor": [3.0] * 4,
                "original_max_position_embeddings": 16,
            },
        },
    ),
]
"""Models whose rotary embedding depends on the longest text of a pass, here from 17 tokens on."""


def last_states(model: Any, tokens: Tensor) -> Tensor:
    """Run tokens and return the last residual states, by TransformerLens alone."""
    site = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    kept = []

    def keep(state: Tensor, hook: Any) -> None:
        kept.append(state.detach().clone())

    with torch.no_grad():
        mask = torch.ones_like(tokens)
        model.run_with_hooks(tokens, fwd_hooks=[(site, keep)], attention_mask=mask)
    return kept[0]


def largest_difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest distance of two states relative to the expected one's norm."""
    return float(((found - expected).norm(dim=-1) / expected.norm(dim=-1)).max())


@pytest.mark.parametrize(("name", "backend", "dtype"), EVERY_MODEL_AND_DTYPE)
def test_padding_on_the_right_reaches_no_state_of_a_text(toy_model, name, backend, dtype):
    model = toy_model(name, backend, dtype)
    assert padding_is_harmless(adapt(model), max(TEXTS, key=len))
    together = last_states(model, pad_right(TEXTS))
    # Norms and softmax of Hugging Face's models compute in float32 whatever the model's precision.
    tolerance = 1e-12 if dtype == "float64" and backend == "hooked" else 5e-6
    for row, ids in enumerate(TEXTS):
        alone = last_states(model, torch.tensor([ids]))[0]
        assert largest_difference(together[row, : len(ids)], alone) < tolerance


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_a_ragged_batch_gives_the_numbers_of_its_texts_one_by_one(toy_model, name, backend):
    adapter = adapt(toy_model(name, backend))
    assert len(shared_passes(adapter, TEXTS)) == 1
    together = ig_lens(adapter, TEXTS)
    alone = [ig_lens(adapter, ids) for ids in TEXTS]
    for numbers in ("values", "levels", "final", "baseline"):
        expected = np.concatenate([getattr(result, numbers) for result in alone])
        np.testing.assert_allclose(getattr(together, numbers), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ALIBI, ids=lambda family: family.name)
def test_alibi_takes_padding_on_the_right(family, tmp_path):
    model = load_eager(family, tmp_path)
    assert padding_is_harmless(adapt(model), max(TEXTS, key=len))
    together = last_states(model, pad_right(TEXTS))
    for row, ids in enumerate(TEXTS):
        alone = last_states(model, torch.tensor([ids]))[0]
        assert largest_difference(together[row, : len(ids)], alone) < 5e-6


@pytest.mark.parametrize("family", ROPE_BY_LENGTH, ids=lambda family: family.name)
def test_a_rotary_embedding_that_knows_the_longest_text_is_not_padded(tmp_path, family):
    model = load_model(write_folder(family, tmp_path), backend="bridge")
    adapter = adapt(model)
    assert padding_is_harmless(adapter, TEXTS[1])
    assert not padding_is_harmless(adapter, TEXTS[3])
    # What is known of long texts is no reason to leave short ones apart.
    assert shared_passes(adapter, TEXTS[:3]) == [[1, 2, 0]]
    padded = last_states(model, pad_right([TEXTS[1], TEXTS[3]]))[0, : len(TEXTS[1])]
    assert largest_difference(padded, last_states(model, torch.tensor([TEXTS[1]]))[0]) > 1e-3
    assert [len(batch) for batch in shared_passes(adapter, TEXTS)] == [1, 1, 2, 1, 1]
    for batch in shared_passes(adapter, TEXTS):
        together = last_states(model, pad_right([TEXTS[index] for index in batch]))
        for row, index in enumerate(batch):
            alone = last_states(model, torch.tensor([TEXTS[index]]))[0]
            assert largest_difference(together[row], alone) < 5e-6


@pytest.mark.skipif(not HAS_HOOKED, reason="this TransformerLens has no HookedTransformer")
def test_attention_both_ways_is_not_padded():
    model = native_hooked(normalization_type="LN", attention_dir="bidirectional")
    adapter = adapt(model)
    assert not padding_is_harmless(adapter, TEXTS[3])
    assert shared_passes(adapter, TEXTS) == [[0], [1], [2, 5], [3], [4]]
    expected = np.concatenate([ig_lens(model, ids).values for ids in TEXTS])
    np.testing.assert_allclose(ig_lens(model, TEXTS).values, expected, rtol=0, atol=1e-4)


def test_a_hook_that_looks_at_the_end_of_every_row_sees_no_padding(toy):
    def steer(state: Tensor, hook: Any) -> Tensor:
        state = state.clone()
        state[:, -1] += state.mean(1)
        return state

    with toy.hooks(fwd_hooks=[("blocks.1.hook_resid_post", steer)]):
        expected = [ig_lens(toy, ids, targets=[9]).final for ids in TEXTS]
        found = ig_lens(toy, TEXTS, targets=[9]).final
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=0, atol=1e-5)
    without = ig_lens(toy, TEXTS, targets=[9]).final
    assert np.abs(found - without).max() > 1e-3


def test_a_module_that_is_changed_is_measured_again(toy_folder):
    adapter = adapt(load_model(toy_folder("llama"), backend="bridge"))
    assert padding_is_harmless(adapter, TEXTS[3])
    mlp = adapter.model.blocks[1].mlp.original_component

    def mix(written: Tensor) -> Tensor:
        return written + written.mean(1, keepdim=True)

    handle = mlp.register_forward_hook(lambda module, inputs, output: mix(output))
    assert not padding_is_harmless(adapter, TEXTS[3])
    assert len(shared_passes(adapter, TEXTS)) > 1
    handle.remove()
    assert padding_is_harmless(adapter, TEXTS[3])
    usual = mlp.act_fn.forward
    mlp.act_fn.forward = lambda hidden: mix(usual(hidden))
    assert not padding_is_harmless(adapter, TEXTS[3])


def test_causality_is_measured_once_for_a_model(toy_folder, monkeypatch):
    from iglens_tl.models import batching

    runs = []
    capture = batching.capture
    monkeypatch.setattr(batching, "capture", lambda *a, **k: runs.append(a) or capture(*a, **k))
    adapter = adapt(load_model(toy_folder("gpt2"), backend="bridge"))
    for _ in range(3):
        shared_passes(adapter, TEXTS)
        shared_passes(adapter, TEXTS[:3])
    assert len(runs) == 2
    shared_passes(adapter, [*TEXTS, *texts_of((41,))])
    assert len(runs) == 4


@pytest.mark.parametrize("by", ["head_source", "sublayer"])
def test_whole_texts_are_cut_before_they_are_reduced(toy, by):
    # Baselines are means over a text, and patterns have two axes of positions.
    chosen = {"by": by, "baseline": "mean", "targets": [9]}
    together = components(toy, TEXTS, **chosen)
    for index, ids in enumerate(TEXTS):
        alone = components(toy, ids, **chosen).to_frame().reset_index(drop=True)
        of_batch = together.for_prompt(index).to_frame().reset_index(drop=True)
        numbers = [column for column in alone.columns if column != "onset"]
        np.testing.assert_allclose(of_batch[numbers], alone[numbers], rtol=0, atol=2e-5)


def test_patterns_are_cut_on_both_axes_of_positions():
    pattern = torch.arange(2 * 5 * 5).view(2, 5, 5)
    cut = cut_padding(pattern, 3, site="blocks.0.attn.hook_pattern")
    assert_identical(cut, pattern[:, :3, :3])
    states = torch.arange(10).view(5, 2)
    assert_identical(cut_padding(states, 3, site="blocks.0.hook_resid_pre"), states[:3])


def test_a_model_without_tokenizer_is_padded_with_a_token_that_it_knows():
    model = native_bridge(normalization_type="LN")
    assert int(pad_right([[7, 8], [9]])[1, 1]) == 7
    expected = np.concatenate([ig_lens(model, ids).values for ids in TEXTS])
    np.testing.assert_allclose(ig_lens(model, TEXTS).values, expected, rtol=0, atol=1e-4)


lengths_of_texts = st.lists(st.integers(1, 300), min_size=1, max_size=40)


@given(lengths_of_texts, st.sampled_from([50, 400, 4096]))
def test_every_text_is_in_one_pass_that_is_not_too_large(lengths, tokens_per_pass):
    for batches in (
        batches_of_similar_length(lengths, tokens_per_pass),
        batches_of_equal_length(lengths, tokens_per_pass),
    ):
        assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
        for batch in batches:
            longest = max(lengths[index] for index in batch)
            assert len(batch) == 1 or len(batch) * longest <= tokens_per_pass


@given(lengths_of_texts)
def test_padding_never_costs_more_than_the_passes_that_it_saves(lengths):
    equal = batches_of_equal_length(lengths, 4096)
    similar = batches_of_similar_length(lengths, 4096)
    padded = sum(len(batch) * max(lengths[index] for index in batch) for batch in similar)
    assert padded - sum(lengths) <= PASS_OVERHEAD * (len(equal) - len(similar))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8, unique=True))
def test_no_other_division_into_passes_costs_less(lengths):
    overhead = 10
    ordered = sorted(lengths)

    def cost(division: list[list[int]]) -> int:
        return sum(len(part) * max(part) + overhead for part in division)

    def cut(places: tuple[int, ...]) -> list[list[int]]:
        ends = [0, *places, len(ordered)]
        return [ordered[a:b] for a, b in pairwise(ends)]

    inner = range(1, len(ordered))
    divisions = [
        cut(places) for size in range(len(ordered)) for places in combinations(inner, size)
    ]
    batches = batches_of_similar_length(lengths, 4096, overhead=overhead)
    found = cost([[lengths[index] for index in batch] for batch in batches])
    assert found == min(cost(division) for division in divisions)


def test_hugging_face_itself_gives_the_probabilities_of_a_ragged_batch(toy_folder, toy_model):
    hf_model = transformers.AutoModelForCausalLM.from_pretrained(toy_folder("llama")).eval()
    found = ig_lens(toy_model("llama", "bridge"), TEXTS)
    expected = []
    for ids in TEXTS:
        with torch.no_grad():
            probs = hf_model(torch.tensor([ids])).logits[0].softmax(-1)
        expected += [float(probs[place, token]) for place, token in enumerate(ids[1:])]
    np.testing.assert_allclose(np.asarray(found.final).ravel(), expected, rtol=0, atol=1e-5)
