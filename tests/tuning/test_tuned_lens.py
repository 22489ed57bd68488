"""The tuned lens: exact identities, its index convention, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from iglens_tl import (
    Translators,
    TunedLensWarning,
    compare,
    load_model,
    logit_lens,
    tuned_lens,
)
from iglens_tl.models import NotApplicableError, adapt
from iglens_tl.tuning import check_translators, resolve_translators
from iglens_tl.tuning.evaluation import known_names, same_name, unembed_hash
from tests.support.cases import EVERY_MODEL, HAS_HOOKED, IDS
from tests.support.closeness import assert_close_to, assert_far_from, assert_identical
from tests.support.native import native_bridge


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_zero_translators_give_exactly_the_logit_lens(toy_model, name, backend):
    model = toy_model(name, backend)
    tuned = tuned_lens(model, IDS, lens=Translators.zeros(3, 32, "x"))
    plain = logit_lens(model, IDS)
    assert_close_to(tuned.values, plain.values, dtype=torch.float32)
    assert_identical(tuned.ranks, plain.ranks)
    for name in ("entropy", "kl_to_final"):
        assert_close_to(tuned.statistics[name], plain.statistics[name], dtype=torch.float32)
    assert tuned.segments == plain.segments
    assert not tuned.additive


@pytest.mark.parametrize("value", ["prob", "logprob", "logit"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_translator_i_reads_the_input_of_block_i_as_hugging_face_computes_it(
    toy_folder, toy_model, random_translators, name, value
):
    """The last state of Hugging Face's list is normed already, which translators never read."""
    translators = random_translators()
    hf = AutoModelForCausalLM.from_pretrained(toy_folder(name)).eval()
    norm = hf.transformer.ln_f if name == "gpt2" else hf.model.norm
    with torch.no_grad():
        outcome = hf(torch.tensor([IDS]), output_hidden_states=True)
        expected = []
        for i in range(3):
            h = outcome.hidden_states[i][0, :-1]
            estimate = h + h @ translators.weight[i].T + translators.bias[i]
            expected.append(hf.lm_head(norm(estimate)))
        expected.append(outcome.logits[0, :-1])
    transform = {"logit": lambda z: z, "logprob": lambda z: z.log_softmax(-1)}.get(
        value, lambda z: z.softmax(-1)
    )
    targets = torch.tensor(IDS[1:])[:, None]
    levels = [transform(z.double()).gather(1, targets)[:, 0].numpy() for z in expected]
    result = tuned_lens(toy_model(name), IDS, lens=translators, value=value)
    assert result.segments == ("embed", "L0", "L1", "L2")
    np.testing.assert_allclose(result.values, np.stack(levels, axis=1), atol=2e-5)
    assert_identical(result.baseline, result.values[:, 0])
    assert_identical(result.final, result.values[:, -1])


def test_divergences_are_those_of_the_translated_distribution(toy, random_translators):
    translators = random_translators()
    result = tuned_lens(toy, IDS, lens=translators)
    adapter = adapt(toy)
    _, cache = toy.run_with_cache(torch.tensor([IDS]))
    final = adapter.readout.logits(cache["blocks.2.hook_resid_post"][0, :-1]).double()
    lens = adapter.readout.logits(
        translators.apply(1, cache["blocks.1.hook_resid_pre"][0, :-1])
    ).double()
    kl = (final.softmax(-1) * (final.log_softmax(-1) - lens.log_softmax(-1))).sum(-1)
    np.testing.assert_allclose(result.statistics["kl_to_final"][:, 1], kl, atol=1e-5)
    assert_close_to(result.statistics["kl_to_final"][:, -1], 0, dtype=torch.float32, size=1)


def test_beside_other_lenses_it_gives_what_it_gives_alone(toy, random_translators):
    translators = random_translators()
    comparison = compare(toy, IDS, lenses={"logit_lens": {}, "tuned_lens": {"lens": translators}})
    by_name = {result.lens: result for result in comparison.results}
    alone = tuned_lens(toy, IDS, lens=translators)
    assert_close_to(by_name["tuned_lens"].values, alone.values, dtype=torch.float32)
    plain = logit_lens(toy, IDS).values
    assert_close_to(by_name["logit_lens"].values, plain, dtype=torch.float32)
    assert_far_from(by_name["logit_lens"].values, alone.values)
    assert alone.provenance.options["fingerprint"] == translators.fingerprint


def test_a_lens_without_bias_and_one_in_half_precision_apply(toy, random_translators):
    translators = random_translators(bias=False)
    zero_bias = dataclasses.replace(translators, bias=torch.zeros(3, 32))
    expected = tuned_lens(toy, IDS, lens=zero_bias).values
    without = tuned_lens(toy, IDS, lens=translators).values
    assert_close_to(without, expected, dtype=torch.float32)
    half = tuned_lens(toy, IDS, lens=translators.to(torch.float16)).values
    np.testing.assert_allclose(half, expected, atol=2e-3)


def test_only_inputs_of_blocks_have_translators(random_translators):
    translators = random_translators()
    for layer in (-1, 3):
        with pytest.raises(ValueError, match=f"no translator {layer}: this lens has 3"):
            translators.apply(layer, torch.zeros(1, 32))


@pytest.mark.parametrize(("n_layers", "d_model"), [(2, 32), (3, 48)])
def test_a_lens_of_another_size_is_refused(toy, random_translators, n_layers, d_model):
    expected = f"{n_layers} translators of width {d_model}, but .* has 3 blocks of width 32"
    with pytest.raises(ValueError, match=expected):
        tuned_lens(toy, IDS, lens=random_translators(n_layers, d_model))


def test_a_lens_of_another_model_is_refused(demo):
    foreign = Translators.zeros(8, 192, "EleutherAI/pythia-70m")
    with pytest.raises(ValueError, match="trained for 'EleutherAI/pythia-70m', not for 'demo'"):
        tuned_lens(demo, "The", lens=foreign)
    of_unknown_folder = dataclasses.replace(foreign, base_model="/somewhere/else")
    check_translators(adapt(demo), of_unknown_folder)


def test_a_folder_is_known_by_the_name_that_its_configuration_remembers(toy_folder, tmp_path):
    folder = shutil.copytree(toy_folder("gpt2"), tmp_path / "copy")
    adapter = adapt(load_model(folder))
    assert known_names(adapter) == []
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_name_or_path": "openai/gpt2"}))
    assert known_names(adapter) == ["openai/gpt2"]
    check_translators(adapter, Translators.zeros(3, 32, "gpt2"))
    with pytest.raises(ValueError, match="trained for 'gpt2-large', not for 'openai/gpt2'"):
        check_translators(adapter, Translators.zeros(3, 32, "gpt2-large"))


def test_names_agree_with_and_without_the_organisation():
    assert same_name("gpt2", "openai-community/gpt2")
    assert same_name("EleutherAI/pythia-70m", "pythia-70m")
    assert not same_name("EleutherAI/pythia-70m", "somebody/pythia-70m")
    assert not same_name("gpt2", "gpt2-large")


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("processed", [True, False])
def test_a_bridge_is_refused_only_if_its_weights_were_processed(toy_folder, name, processed):
    model = load_model(toy_folder(name), backend="bridge")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.enable_compatibility_mode(disable_warnings=True, no_processing=not processed)
    translators = Translators.zeros(3, 32, "x")
    if processed:
        with pytest.raises(ValueError, match="does not have it: its norms are folded"):
            check_translators(adapt(model), translators)
    else:
        check_translators(adapt(model), translators)


@pytest.mark.skipif(not HAS_HOOKED, reason="TransformerLens 4 has no HookedTransformer")
@pytest.mark.parametrize(
    ("options", "reason"),
    [({"fold_ln": True}, "norms are folded"), ({"center_writing_weights": True}, "are centred")],
)
def test_a_processed_hooked_transformer_is_refused(toy_folder, options, reason):
    model = load_model(toy_folder("gpt2"), backend="hooked")
    none = {
        "fold_ln": False,
        "center_writing_weights": False,
        "center_unembed": False,
        "fold_value_biases": False,
    }
    model.load_and_process_state_dict(model.state_dict(), **none | options)
    if "fold_ln" in options:
        model.cfg.normalization_type = "LNPre"
    with pytest.raises(ValueError, match=f"{reason}.*iglens_tl.load_model"):
        check_translators(adapt(model), Translators.zeros(3, 32, "x"))


def test_a_model_without_a_name_takes_any_lens_of_its_size():
    model = native_bridge()
    model.cfg.model_name = None
    lens = Translators.zeros(3, 32, "gpt2")
    assert adapt(model).name == "unnamed model"
    assert tuned_lens(model, IDS, lens=lens).segments[-1] == "L2"


def test_a_lens_that_is_worse_than_none_is_reported_once(demo):
    spoiled = Translators(torch.zeros(8, 192, 192), torch.zeros(8, 192), "demo", unembed_hash="00")
    spoiled.bias[3] = 20.0
    with pytest.warns(TunedLensWarning, match=r"at L2 \(.* nats\); the hash of its unembedding"):
        tuned_lens(demo, "The", lens=spoiled)
    tuned_lens(demo, "The", lens=spoiled)  # warnings are errors here


def test_auto_without_any_known_lens_says_how_to_get_one(toy, monkeypatch):
    with pytest.raises(NotApplicableError, match=r"no tuned lens is known.*train_tuned_lens\("):
        tuned_lens(toy, IDS)
    skipped = compare(toy, IDS, lenses=["logit_lens", "tuned_lens"]).skipped
    assert "train one with" in skipped["tuned_lens"]


def test_anything_but_a_lens_is_refused(toy, tmp_path):
    with pytest.raises(TypeError, match="must be a folder, a name or Translators, got int"):
        resolve_translators(adapt(toy), 3)
    with pytest.raises(ValueError, match="there is no folder"):
        resolve_translators(adapt(toy), tmp_path / "none")


def test_the_hash_of_the_unembedding_does_not_depend_on_print_options(demo):
    readout = adapt(demo).readout
    expected = unembed_hash(readout)
    with np.printoptions(precision=8, threshold=5, linewidth=20):
        assert unembed_hash(readout) == expected
