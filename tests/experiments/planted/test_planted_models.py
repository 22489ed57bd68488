"""What is planted is really there: checked by taking parts out of plain Hugging Face models."""

from __future__ import annotations

from itertools import groupby

import pytest
import torch

from experiments.planted.circuits import N_LAYERS
from experiments.planted.kinds import KINDS
from experiments.planted.models import (
    all_models,
    backup,
    cooler,
    cooperation,
    head,
    relay,
    router,
    sharpener,
    writer,
)
from experiments.planted.stream import SCALE
from experiments.planted.vocabulary import CAPITALS, UNSURE, WORDS, reference_texts
from iglens_tl.models.adapter import hooked_transformer_class
from tests.experiments.planted.by_hand import (
    PARTS,
    logits_without,
    p_of_answer,
    token_ids,
    tokenizer,
)
from tests.support.closeness import assert_close_to, assert_far_from, assert_identical

EXAMPLES = (
    writer(1, seed=0),
    head(2, 3, seed=1),
    cooperation(0, 3, seed=2),
    sharpener(1, 4, seed=0),
    cooler(2, 3, seed=1),
    router(0, 4, seed=2),
    relay(1, 3, 2, seed=0),
    backup(0, 2, seed=1),
)
BACKENDS = ["bridge"] if hooked_transformer_class() is None else ["hooked", "bridge"]
CAPITAL_IDS = [WORDS.index(capital) for capital in CAPITALS.values()]

of_each_kind = pytest.mark.parametrize("model", EXAMPLES, ids=lambda model: model.name)


def test_there_is_every_kind_at_every_place_with_every_seed():
    models = list(all_models())
    assert len({model.name for model in models}) == len(models)
    kinds = {k: list(g) for k, g in groupby(sorted(models, key=lambda m: m.kind), lambda m: m.kind)}
    assert set(kinds) == set(KINDS) == {model.kind for model in EXAMPLES}
    pairs = N_LAYERS * (N_LAYERS - 1) // 2
    for kind, found in kinds.items():
        assert len(found) == (3 * N_LAYERS if kind in ("writer", "head") else pairs)
        assert {model.seed for model in found} == {0, 1, 2}


def test_every_model_of_the_study_answers_right():
    for model in all_models():
        hf = model.build()
        logits = logits_without(hf, model)
        assert WORDS[logits.argmax()] == model.answer, model.name
        assert p_of_answer(hf, model) > 0.9, model.name


def test_every_word_is_one_token():
    for text in reference_texts():
        ids = tokenizer()(text)["input_ids"]
        assert [WORDS[token] for token in ids] == ["<s>", *text.split()]


@of_each_kind
def test_without_a_necessary_part_the_answer_is_gone_and_without_any_other_it_is_not(model):
    hf = model.build()
    for part in PARTS:
        logits = logits_without(hf, model, [part])
        p = p_of_answer(hf, model, [part])
        if part in model.necessary:
            assert WORDS[logits.argmax()] == UNSURE
            assert p < 0.1
        else:
            assert WORDS[logits.argmax()] == model.answer
            assert p > 0.7


@of_each_kind
def test_what_is_necessary_is_enough_for_the_answer_to_come_first(model):
    hf = model.build()
    needed = model.necessary or model.writers
    others = [part for part in PARTS if part not in needed]
    assert WORDS[logits_without(hf, model, others).argmax()] == model.answer
    assert p_of_answer(hf, model, others) > 0.7


@of_each_kind
def test_without_anything_planted_the_model_is_unsure(model):
    hf = model.build()
    assert p_of_answer(hf, model, PARTS) < 1e-3


@of_each_kind
def test_all_other_parts_write_something_but_nothing_that_is_read(model):
    hf = model.build()
    capitals = hf.lm_head.weight[CAPITAL_IDS].double()
    capitals = capitals / capitals.norm(dim=1, keepdim=True)
    written: dict[str, torch.Tensor] = {}
    for layer, block in enumerate(hf.transformer.h):
        for name, module in (("attn", block.attn), ("mlp", block.mlp)):

            def keep(module, inputs, output, label=f"L{layer}.{name}"):
                output = output[0] if isinstance(output, tuple) else output
                written[label] = output[0, -1].double()

            module.register_forward_hook(keep)
    logits_without(hf, model)
    planted = {f"L{plant.keywords['layer']}" for plant in model.plants}
    for label, update in written.items():
        assert update.norm() > 0.1
        if label.split(".")[0] not in planted:
            assert (capitals @ update).abs().max() < 1e-5


@of_each_kind
def test_the_constant_keeps_the_norm(model):
    hf = model.build()
    scales = []
    norms = [norm for block in hf.transformer.h for norm in (block.ln_1, block.ln_2)]
    for norm in [*norms, hf.transformer.ln_f]:
        norm.register_forward_hook(
            lambda module, inputs, output: scales.append(
                inputs[0][0].var(-1, unbiased=False).rsqrt()
            )
        )
    logits_without(hf, model)
    found = torch.stack(scales)
    # From the second half of the block that cools, the constant is smaller by design.
    ruled = found if model.kind != "cooler" else found[: 2 * 3 + 2]
    assert_close_to(ruled, torch.full_like(ruled, SCALE), tolerance=0.025)
    if model.kind == "cooler":
        assert (found[-1, -1] > 2 * SCALE).all()


def test_half_an_answer_is_not_enough():
    model = cooperation(1, 3, seed=0)
    hf = model.build()
    for part in model.necessary:
        others = [other for other in PARTS if other != part]
        assert p_of_answer(hf, model, others) < 0.1
    assert p_of_answer(hf, model) > 0.9


@pytest.mark.parametrize("model", [sharpener(1, 3, seed=0), cooler(1, 3, seed=0)])
def test_a_sharpening_layer_only_makes_the_first_answer_more_certain(model):
    hf = model.build()
    sharp, blunt = p_of_answer(hf, model), p_of_answer(hf, model, ["L3.mlp"])
    assert 0.7 < blunt < 0.8
    assert sharp > blunt + 0.15
    assert p_of_answer(hf, model, model.writers) < 0.01


def test_a_cooler_changes_no_ratio_of_logits():
    model = cooler(1, 4, seed=0)
    hf = model.build()
    readable = [WORDS.index(word) for word in (model.answer, UNSURE)]
    with_it = logits_without(hf, model)[readable]
    without = logits_without(hf, model, ["L4.mlp"])[readable]
    assert with_it[0] > 2 * without[0]
    ratio = without[0] / without[1]
    assert_close_to(with_it[0] / with_it[1], ratio, tolerance=1e-4)


@pytest.mark.parametrize("model", [router(1, 3, seed=0), relay(1, 3, 2, seed=0)])
def test_the_readout_does_not_see_an_idea_before_it_is_read(model):
    hf = model.build()
    with torch.no_grad():
        states = hf(token_ids(model), output_hidden_states=True).hidden_states
        answer = WORDS.index(model.answer)
        for state in states[:4]:  # the embedding and the states after L0, L1 and L2
            logits = hf.lm_head(hf.transformer.ln_f(state))[0].double()
            assert logits.softmax(-1)[:, answer].max() < 0.05
            assert logits[:, CAPITAL_IDS].abs().max() < 1e-4


def test_a_backup_answers_only_without_the_writer():
    model = backup(1, 3, seed=0)
    hf = model.build()
    whole = logits_without(hf, model)
    torch.testing.assert_close(
        logits_without(hf, model, ["L3.mlp"])[CAPITAL_IDS], whole[CAPITAL_IDS], rtol=0, atol=0.05
    )
    assert p_of_answer(hf, model, ["L1.mlp"]) > 0.9
    assert p_of_answer(hf, model, ["L1.mlp", "L3.mlp"]) < 1e-3


@of_each_kind
@pytest.mark.parametrize("backend", BACKENDS)
def test_transformer_lens_computes_the_same_model(model, backend, loaded):
    with torch.no_grad():
        found = loaded(model, backend)(token_ids(model))[0, -1].double()
    expected = logits_without(model.build(), model)
    torch.testing.assert_close(found.softmax(-1), expected.softmax(-1), rtol=0, atol=1e-5)


def test_the_same_seed_gives_the_same_weights_and_another_one_other_weights():
    first, again, other = (writer(1, seed=seed).build() for seed in (0, 0, 1))
    assert_identical(first.lm_head.weight, again.lm_head.weight)
    assert_far_from(first.lm_head.weight, other.lm_head.weight)
