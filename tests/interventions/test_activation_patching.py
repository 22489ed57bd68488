"""Activation patching: equality with plain loops of hooks, identities, interruption, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from iglens_tl import LogitDifference, load_model
from iglens_tl.interventions import activation_patching
from iglens_tl.models import NotApplicableError, adapt, patching
from iglens_tl.results.patching import PatchingResult
from tests.conftest import family
from tests.support.cases import EVERY_MODEL, HAS_HOOKED
from tests.support.closeness import assert_close_to
from tests.support.native import native_bridge, native_hooked
from tests.support.patches import ANSWER, CLEAN, CORRUPTED, OTHER_END, patch

BACKENDS = ["hooked", "bridge"] if HAS_HOOKED else ["bridge"]


def logits_after(model, ids, hooks=()):
    with torch.no_grad():
        return model.run_with_hooks(torch.tensor([ids]), fwd_hooks=list(hooks))[0, -1].double()


def logprob_after(model, ids, hooks=()):
    return float(logits_after(model, ids, hooks).log_softmax(-1)[ANSWER])


def patch_by_loop(model, site, *, into=CORRUPTED, taken_from=CLEAN, value=logprob_after):
    """Run the model once for every layer and position, with one activation set."""
    n_layers = model.cfg.n_layers
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([taken_from]))
    values = np.zeros((n_layers, len(into)))
    for layer in range(n_layers):
        name = f"blocks.{layer}.hook_{site}"
        for position in range(len(into)):

            def replaced(activation, hook, name=name, position=position):
                activation = activation.clone()
                activation[0, position] = cache[name][0, position]
                return activation

            values[layer, position] = value(model, into, [(name, replaced)])
    return values


def hook_count(model) -> int:
    points = {id(point): point for point in model.hook_dict.values()}
    return sum(len(point.fwd_hooks) for point in points.values())


@pytest.fixture(scope="module")
def denoised(toy):
    return patch(toy)


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_patches_equal_a_plain_loop_of_hooks(toy_model, name, backend):
    model = toy_model(name, backend)
    n_hooks = hook_count(model)
    for site in ("attn_out", "mlp_out"):
        result = patch(model, site=site)
        assert_close_to(result.values, patch_by_loop(model, site), dtype=torch.float32)
        for found, text in ((result.clean_value, CLEAN), (result.corrupted_value, CORRUPTED)):
            assert_close_to(found, logprob_after(model, text), dtype=torch.float32)
    assert hook_count(model) == n_hooks


@pytest.mark.parametrize("backend", BACKENDS)
def test_noising_is_denoising_with_the_runs_exchanged(toy_model, backend):
    model = toy_model("gpt2", backend)
    result = patch(model, direction="noising")
    loop = patch_by_loop(model, "resid_post", into=CLEAN, taken_from=CORRUPTED)
    assert_close_to(result.values, loop, dtype=torch.float32)
    exchanged = patch(model, CORRUPTED, CLEAN)
    assert_close_to(result.values, exchanged.values, dtype=torch.float32)
    assert_close_to(result.clean_value, exchanged.corrupted_value, dtype=torch.float32)
    assert_close_to(result.recovered, exchanged.recovered, dtype=torch.float32)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("site", ["resid_pre", "attn_out", "mlp_out"])
def test_patches_equal_those_of_transformer_lens(toy_model, backend, site):
    from transformer_lens import patching as reference

    model = toy_model("llama", backend)
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([CLEAN]))
        expected = getattr(reference, f"get_act_patch_{site}")(
            model,
            torch.tensor([CORRUPTED]),
            cache,
            lambda logits: logits[0, -1].log_softmax(-1)[ANSWER],
        )
    result = patch(model, site=site)
    assert_close_to(result.values, expected, dtype=torch.float32)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox_sequential", "mixtral"])
@pytest.mark.skipif(not HAS_HOOKED, reason="TransformerLens 4 has no HookedTransformer")
def test_states_inside_a_block_are_patched_alike_on_both_model_classes(toy_model, name):
    # Only a HookedTransformer has a hook in the stream itself.
    expected = patch_by_loop(toy_model(name, "hooked"), "resid_mid")
    for backend in BACKENDS:
        model = toy_model(name, backend)
        result = patch(model, site="resid_mid")
        assert_close_to(result.values, expected, dtype=torch.float32)


@pytest.mark.parametrize("name", ["gemma2", "granite", "olmo2"])
def test_patching_the_state_inside_a_block_reaches_mlp_and_stream(toy_model, name):
    model = toy_model(name, "bridge")
    result = patch(model, site="resid_mid")
    with torch.no_grad():
        _, clean = model.run_with_cache(torch.tensor([CLEAN]))
    for layer in range(3):
        pre, attn, mid = (
            f"blocks.{layer}.hook_{s}" for s in ("resid_pre", "attn_out", "resid_mid")
        )
        seen = {}

        def see(state, hook, seen=seen):
            seen["pre"] = state.clone()

        def leave(update, hook, seen=seen, mid=mid):
            update = update.clone()
            update[0, -1] = clean[mid][0, -1] - seen["pre"][0, -1]
            return update

        expected = logprob_after(model, CORRUPTED, [(pre, see), (attn, leave)])
        assert result.values[layer, -1] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "mixtral", "falcon"])
def test_the_last_state_alone_decides_exactly(toy_model, name, direction):
    result = patch(toy_model(name, "bridge"), direction=direction)
    assert result.recovered[-1, -1] == 1
    assert result.recovered[-1, :-1] == pytest.approx([0, 0, 0], abs=1e-4)
    # Nothing differs before the first token that does.
    assert result.recovered[:, 0] == pytest.approx([0, 0, 0], abs=1e-4)


def test_a_patched_state_before_the_first_block_at_the_only_token_that_differs_is_everything(toy):
    result = patch(toy, site="resid_pre")
    assert result.recovered[0] == pytest.approx([0, 1, 0, 0], abs=1e-4)
    after = patch(toy, site="resid_post")
    assert_close_to(result.values[1:], after.values[:-1], dtype=torch.float32)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("logprob", lambda logits, clean: logits.log_softmax(-1)[ANSWER]),
        ("logit", lambda logits, clean: logits[ANSWER]),
        (LogitDifference(5, "w9"), lambda logits, clean: logits[5] - logits[9]),
        ("entropy", lambda logits, clean: torch.distributions.Categorical(logits=logits).entropy()),
        (
            "kl_to_final",
            lambda logits, clean: torch.distributions.kl_divergence(
                torch.distributions.Categorical(logits=clean),
                torch.distributions.Categorical(logits=logits),
            ),
        ),
    ],
    ids=lambda given: "" if callable(given) else str(given),
)
def test_every_value_can_be_patched(toy, value, expected):
    clean = logits_after(toy, CLEAN)
    loop = patch_by_loop(
        toy, "resid_post", value=lambda *run: float(expected(logits_after(*run), clean))
    )
    result = patch(toy, value=value)
    np.testing.assert_allclose(result.values, loop, atol=1e-4, rtol=0)
    assert result.clean_value == pytest.approx(float(expected(clean, clean)), abs=1e-4)


def test_float64_models_keep_their_precision(toy_model):
    # Hugging Face computes an RMSNorm in float32 even so, but not a LayerNorm.
    model = toy_model("gpt2", "bridge", "float64")
    result = patch(model)
    np.testing.assert_allclose(
        result.values, patch_by_loop(model, "resid_post"), atol=1e-12, rtol=0
    )


def test_many_passes_give_what_one_gives(toy, denoised, monkeypatch):
    monkeypatch.setattr(patching, "_TOKENS_PER_PASS", 2 * len(CLEAN))
    result = patch(toy)
    assert_close_to(result.values, denoised.values, dtype=torch.float32)


@pytest.mark.same_rounding
def test_a_layer_takes_one_pass_with_a_row_for_each_position_that_differs(toy_folder):
    model, rows = load_model(toy_folder("llama")), []
    patch(model)
    model.add_hook("blocks.0.hook_attn_out", lambda a, hook: rows.append(len(a)))
    patch(model)  # the first use of hooks also checks the model
    rows.clear()
    patch(model)
    # Both prompts, then the three layers; the embedding of the last token is the same in both.
    assert rows == [1, 1, 3, 3, 3]


def test_attention_that_adds_nothing_is_not_patched_at_all(toy_folder):
    model = load_model(toy_folder("llama"), backend="bridge")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "o_proj" in name:
                weight.zero_()
    result = patch(model, corrupted=OTHER_END, site="attn_out")
    assert_close_to(result.values, result.corrupted_value, dtype=torch.float32)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("place", ["resid_pre", "resid_post"])
def test_hooks_of_the_user_stay_active(toy_folder, backend, place):
    model = load_model(toy_folder("llama"), backend=backend)
    plain = patch(model)
    model.add_hook(f"blocks.1.hook_{place}", lambda states, hook: states + 0.5)
    result = patch(model)
    expected = patch_by_loop(model, "resid_post")
    assert_close_to(result.values, expected, dtype=torch.float32)
    assert abs(result.values - plain.values).max() > 1e-3
    assert hook_count(model) == 1


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_no_hook_and_no_mode_behind(toy_folder, backend, error):
    model, calls = load_model(toy_folder("llama"), backend=backend), []
    expected = patch(model).values
    model.train()

    def interrupt(activation, hook):
        calls.append(hook)
        if len(calls) == 4:
            raise error

    with model.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", interrupt)]), pytest.raises(error):
        patch(model)
    assert len(calls) == 4
    assert hook_count(model) == 0
    assert model.training
    assert torch.is_grad_enabled()
    assert_close_to(patch(model).values, expected, dtype=torch.float32)


def test_no_progress_bar_is_drawn_and_those_of_other_calls_stay(toy, capfd):
    from transformer_lens import patching as reference

    bar = reference.tqdm
    patch(toy)
    assert capfd.readouterr() == ("", "")
    assert reference.tqdm is bar


def test_a_hook_that_replaces_the_batch_is_an_error_that_names_the_place(toy_folder):
    model = load_model(toy_folder("llama"))
    hook = ("blocks.0.hook_resid_post", lambda states, hook: states[:1])
    message = r"1 rows at blocks.0.hook_resid_post where \d positions are patched; remove hooks"
    with model.hooks(fwd_hooks=[hook]), pytest.raises(ValueError, match=message):
        patch(model)


def test_attention_only_models_have_no_mlp_to_patch():
    options = {"attn_only": True, "normalization_type": "LN"}
    for build in [native_bridge] + [native_hooked] * HAS_HOOKED:
        model = build(**options)
        result = patch(model, corrupted=OTHER_END, site="attn_out")
        loop = patch_by_loop(model, "attn_out", into=OTHER_END)
        assert_close_to(result.values, loop)
        with pytest.raises(NotApplicableError, match="no mlp_out to replace; use attn_out"):
            patch(model, corrupted=OTHER_END, site="mlp_out")
        with pytest.raises(NotApplicableError, match="its blocks have attention only"):
            patch(model, corrupted=OTHER_END, site="resid_mid")


def test_parallel_blocks_have_no_state_inside(toy_model):
    assert family("gpt_neox_parallel").parallel
    for backend in BACKENDS:
        model = toy_model("gpt_neox_parallel", backend)
        with pytest.raises(
            NotApplicableError, match="blocks run attention and MLP in parallel.*resid_pre"
        ):
            patch(model, site="resid_mid")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"corrupted": "w17 w42"},
            r"clean prompt has 4 tokens \[' ?<s>', .*\], the corrupted one 3 tokens \[' ?<s>'.*\]; "
            ".* rephrase one of them",
        ),
        ({"corrupted": "w17 w42 w5"}, r"are the same 4 tokens \[' ?<s>', .*change what the answer"),
        ({"answer": " w7 w8"}, "the answer ' w7 w8' is 2 tokens for .*: .*name one"),
        ({"answer": [7, 8]}, r"the answer \[7, 8\] is 2 tokens"),
        ({"answer": 97}, "answer token id 97 is not in the vocabulary"),
        ({"direction": "both"}, "unknown direction 'both'; choose one of denoising, noising"),
        ({"site": "z"}, "unknown site 'z'; choose one of resid_pre, resid_mid"),
        ({"value": "chance"}, "unknown value 'chance'"),
        ({"clean": ["w17 w42 w5", "w17"]}, "the clean prompt is a batch of 2; patch one pair"),
        ({"corrupted": ["w17 w42 w5", "w17"]}, "the corrupted prompt is a batch of 2"),
        ({"corrupted": ""}, "the prompt is empty"),
    ],
    ids=str,
)
def test_bad_input_is_an_error_that_says_what_to_do(toy, options, message):
    given = {"clean": "w17 w42 w5", "corrupted": "w17 w42 w6", "answer": " w9"} | options
    with pytest.raises(ValueError, match=message):
        activation_patching(toy, given.pop("clean"), given.pop("corrupted"), **given)


def test_prompts_that_give_the_same_value_have_nothing_to_recover(toy_folder):
    model = load_model(toy_folder("llama"), backend="bridge")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "o_proj" in name:
                weight.zero_()
    message = "about the same value .* so there is no difference that a patch could recover; choose"
    with pytest.raises(ValueError, match=message):
        patch(model)


def test_facts_and_names_of_the_trained_model_are_found_where_they_stand(demo):
    fact = activation_patching(
        demo, "The capital of Vietnam is", "The capital of France is", answer=" Hanoi"
    )
    # What is known of the country moves from its own position to the last one.
    assert fact.recovered[0].argmax() == 4
    assert fact.recovered[-2, -1] > 0.9
    names = activation_patching(
        demo,
        "When Adam and Daisy went to the market, Daisy gave a book to",
        "When Daisy and Adam went to the market, Adam gave a book to",
        answer=" Adam",
        value=LogitDifference(" Adam", " Daisy"),
    )
    assert set(names.recovered.max(0).argsort()[-3:].tolist()) == {2, 10, 14}


def test_adapters_are_taken_as_models(toy, denoised):
    result = patch(adapt(toy))
    assert isinstance(result, PatchingResult)
    assert_close_to(result.values, denoised.values, dtype=torch.float32)
