"""The check of a model at every use, against what the model itself computes."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
import transformers

from iglens_tl import IGLens, LogitLens, Trace, ig_lens, load_model, trace_prompt
from iglens_tl.models import adapt, check_model, checks
from tests.support.cases import HAS_HOOKED, IDS
from tests.support.families import FAMILIES

BACKENDS = ["bridge", *(["hooked"] if HAS_HOOKED else [])]


def own_probs(model, ids=IDS) -> np.ndarray:
    """Return the model's own probabilities of the next tokens of a text."""
    with torch.no_grad():
        probs = model(torch.tensor([ids]))[0, :-1].double().softmax(-1)
    return probs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()


def scale_output(module, args, output):
    del module, args
    return output * 1.5


def inner(module):
    """Return the module of Hugging Face's that a bridge wraps, or the module itself."""
    original = getattr(module, "original_component", None)
    return module if original is None else original


def hook_norm_point(model):
    name = (
        "ln_final.hook_out"
        if "ln_final.hook_out" in model.hook_dict
        else "ln_final.hook_normalized"
    )
    model.add_hook(name, lambda states, hook: states * 1.5)


def hook_norm_module(model):
    model.ln_final.register_forward_hook(scale_output)


def hook_unembedding(model):
    model.unembed.register_forward_hook(scale_output)


def hook_inner_unembedding(model):
    inner(model.unembed).register_forward_hook(scale_output)


def hook_before_the_norm(model):
    model.ln_final.register_forward_pre_hook(lambda module, args: (args[0] + 1.0,))


def replace_norm_forward(model):
    module = inner(model.ln_final)
    own = module.forward
    module.forward = lambda states: own(states) * 1.5


def replace_unembedding_forward(model):
    module = inner(model.unembed)
    own = module.forward
    module.forward = lambda states: own(states) * 1.5


def hook_last_block(model):
    def shift(module, args, output):
        del module, args
        return (output[0] * 0.5, *output[1:]) if isinstance(output, tuple) else output * 0.5

    model.blocks[-1].register_forward_hook(shift)


INTERVENTIONS = [
    hook_norm_point,
    hook_norm_module,
    hook_unembedding,
    hook_inner_unembedding,
    hook_before_the_norm,
    replace_norm_forward,
    replace_unembedding_forward,
    hook_last_block,
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("intervene", INTERVENTIONS)
def test_what_is_added_after_the_first_use_is_an_error_or_in_the_numbers(
    toy_folder, backend, intervene
):
    model = load_model(toy_folder("llama"), backend=backend)
    before = ig_lens(model, IDS).final
    intervene(model)
    own = own_probs(model)
    try:
        final = ig_lens(model, IDS).final
    except ValueError as error:
        assert "differ" in str(error)
    else:
        np.testing.assert_allclose(final, own, atol=2e-6)
    if np.abs(own - before).max() < 1e-6:  # nothing computes through this place
        np.testing.assert_allclose(final, before, atol=2e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_function_that_acts_later_or_at_a_late_position_only_is_seen(toy_folder, backend):
    model = load_model(toy_folder("llama"), backend=backend)
    text = [1, *range(4, 60)]
    acts = {"now": False}

    def late(module, args, output):
        del module, args
        if acts["now"]:
            output = output.clone()
            output[:, 45:] *= 1.5
        return output

    model.unembed.register_forward_hook(late)
    np.testing.assert_allclose(ig_lens(model, text).final, own_probs(model, text), atol=2e-6)
    acts["now"] = True
    with pytest.raises(ValueError, match="differ"):
        ig_lens(model, text)


@pytest.mark.parametrize("backend", BACKENDS)
def test_functions_that_only_look_change_nothing(toy_folder, backend):
    model = load_model(toy_folder("llama"), backend=backend)
    expected = ig_lens(model, IDS).final
    seen = []
    model.unembed.register_forward_hook(lambda module, args, output: seen.append(1))
    np.testing.assert_allclose(ig_lens(model, IDS).final, expected, atol=1e-7)
    assert seen


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_trace_is_checked_once_and_its_results_report_that(toy_folder, backend, monkeypatch):
    model = load_model(toy_folder("llama"), backend=backend)
    model.unembed.register_forward_hook(lambda module, args, output: None)
    calls, run_check = [], checks._run_check
    monkeypatch.setattr(checks, "_run_check", lambda *args: calls.append(1) or run_check(*args))
    trace = trace_prompt(model, IDS)
    results = [lens(trace) for lens in (IGLens(), LogitLens())]
    assert len(calls) == 1
    assert all(result.provenance.checks == asdict(trace.check) for result in results)


def test_a_trace_of_a_cache_is_checked_as_well(toy_folder):
    model = load_model(toy_folder("llama"), backend="bridge")
    _, cache = model.run_with_cache(torch.tensor([IDS]))
    assert Trace.from_cache(model, cache, IDS).check.readout_error < 1e-6
    model.unembed.register_forward_hook(scale_output)
    with pytest.raises(ValueError, match="differ.*remove them"):
        Trace.from_cache(model, cache, IDS)


def test_a_wrong_readout_is_seen_where_all_probabilities_are_small():
    config = transformers.LlamaConfig(
        vocab_size=20_000,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    model = load_model(transformers.LlamaForCausalLM(config))
    check = check_model(adapt(model), torch.tensor(IDS))
    assert check.logit_error < 1e-5
    gain = 1 + 0.05 * torch.randn(32)
    hook = ("ln_final.hook_out", lambda states, hook: states * gain)
    with model.hooks(fwd_hooks=[hook]), pytest.raises(ValueError, match="of their spread") as error:
        ig_lens(model, IDS)
    # The probabilities alone are within the tolerance.
    assert "by up to 1e-05" not in str(error.value)
    assert float(str(error.value).split("by up to ")[1].split(",")[0]) < 1e-5


def test_weights_written_in_place_or_replaced_are_checked_again(toy_folder):
    model = load_model(toy_folder("llama"), backend="bridge")
    ig_lens(model, IDS)
    with torch.no_grad():
        model.ln_final.original_component.weight.mul_(1.3)
    np.testing.assert_allclose(ig_lens(model, IDS).final, own_probs(model), atol=2e-6)


SEQUENTIAL = [family.name for family in FAMILIES if not family.parallel][:6]


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_a_hook_between_attention_and_mlp_of_a_bridge_is_refused(toy_folder, name):
    model = load_model(toy_folder(name), backend="bridge")
    steering = torch.full((32,), 0.5)
    hook = ("blocks.1.hook_resid_mid", lambda states, hook: states + steering)
    with model.hooks(fwd_hooks=[hook]):
        with pytest.raises(
            ValueError, match=r"hook of yours at blocks.1.hook_resid_mid.*remove it"
        ):
            ig_lens(model, IDS, by="sublayer")
        # Whole layers are read as the model computes them.
        np.testing.assert_allclose(ig_lens(model, IDS).final, own_probs(model), atol=2e-6)
    ig_lens(model, IDS, by="sublayer")


@pytest.mark.skipif(not HAS_HOOKED, reason="TransformerLens 4 has no HookedTransformer")
def test_a_hook_between_attention_and_mlp_of_a_hooked_transformer_is_honoured(toy_folder):
    model = load_model(toy_folder("llama"), backend="hooked")
    steering = torch.full((32,), 0.5)
    hook = ("blocks.1.hook_resid_mid", lambda states, hook: states + steering)
    with model.hooks(fwd_hooks=[hook]):
        result = ig_lens(model, IDS, by="sublayer")
        np.testing.assert_allclose(result.final, own_probs(model), atol=2e-6)
