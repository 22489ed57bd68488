"""Models that users built themselves, the runtime check, and hooks that are left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from iglens_tl import ig_lens
from iglens_tl.models import adapt, capture, check_model
from iglens_tl.models.adapter import require_float64
from iglens_tl.models.checks import READOUT_TOLERANCE
from tests.support.cases import EVERY_MODEL, HAS_HOOKED, IDS, TL_VERSION
from tests.support.closeness import assert_close_to
from tests.support.native import native_bridge, native_hooked

HOOKED_CONFIGS = {
    "layer_norm": {"normalization_type": "LN"},
    "layer_norm_folded": {"normalization_type": "LNPre"},
    "rms_norm": {"normalization_type": "RMS"},
    "rms_norm_folded": {"normalization_type": "RMSPre"},
    "final_rms": {"normalization_type": "LN", "final_rms": True},
    "softcap": {"normalization_type": "RMS", "output_logits_soft_cap": 3.0},
    "parallel": {"normalization_type": "LN", "parallel_attn_mlp": True},
    "rotary": {"normalization_type": "RMS", "positional_embedding_type": "rotary", "rotary_dim": 8},
    "attention_only": {"normalization_type": None, "attn_only": True},
    "without_norm": {"normalization_type": None},
}
BRIDGE_CONFIGS = {
    "layer_norm": {"normalization_type": "LN"},
    "rms_norm": {"normalization_type": "RMS"},
    "attention_only": {"normalization_type": None, "attn_only": True},
}


def own_models() -> list:
    cases = [pytest.param(native_bridge, o, id=f"bridge-{n}") for n, o in BRIDGE_CONFIGS.items()]
    if HAS_HOOKED:
        cases += [
            pytest.param(native_hooked, o, id=f"hooked-{n}") for n, o in HOOKED_CONFIGS.items()
        ]
    return cases


def own_probs(model, ids=IDS) -> np.ndarray:
    """Return the model's own probabilities of the next tokens of a text."""
    with torch.no_grad():
        probs = model(torch.tensor([ids]))[0, :-1].double().softmax(-1)
    return probs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].numpy()


@pytest.mark.parametrize(("build", "options"), own_models())
def test_natively_built_models_sum_to_their_own_probability(build, options):
    model = build(**options)
    result = ig_lens(model, IDS)
    # Without a norm logits are large, and their rounding with them.
    assert_close_to(result.final, own_probs(model), dtype=torch.float32, size=1)
    np.testing.assert_allclose(result.completeness_error, 0, atol=1e-12)
    integrated = ig_lens(model, IDS, estimator="gradient")
    np.testing.assert_allclose(integrated.values, result.values, atol=1e-5)


def test_an_attention_only_model_has_only_attention_sublayers():
    build = native_hooked if HAS_HOOKED else native_bridge
    result = ig_lens(build(normalization_type=None, attn_only=True), IDS, by="sublayer")
    assert result.segments == ("embed", "L0.attn", "L1.attn", "L2.attn")


@pytest.mark.skipif(not HAS_HOOKED, reason="TransformerLens 4 has no HookedTransformer")
@pytest.mark.parametrize("normalization_type", ["LN", "RMS"])
def test_folding_a_hooked_transformer_changes_no_level(normalization_type):
    raw = native_hooked(normalization_type=normalization_type)
    folded = native_hooked(normalization_type=normalization_type)
    # TransformerLens folds in float32, whatever the model computes in.
    folded.process_weights_(fold_ln=True, center_writing_weights=False, center_unembed=False)
    np.testing.assert_allclose(
        ig_lens(folded, IDS, baseline="zero").levels[:, 1:],
        ig_lens(raw, IDS).levels[:, 1:],
        atol=1e-4,
    )


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox_parallel", "gemma2"])
def test_a_bridge_in_compatibility_mode_sums_to_its_own_probability(toy_folder, hf_probs, name):
    from iglens_tl import load_model

    model = load_model(toy_folder(name), backend="bridge")
    model.enable_compatibility_mode()
    result = ig_lens(model, IDS)
    np.testing.assert_allclose(result.final, own_probs(model), atol=1e-5)
    expected = hf_probs(name, IDS)[:-1].gather(1, torch.tensor(IDS[1:])[:, None])[:, 0]
    np.testing.assert_allclose(result.final, expected, atol=1e-5)


@pytest.mark.skipif(not TL_VERSION.startswith("3."), reason="this model loads in TransformerLens 4")
def test_a_bridge_that_the_user_built_is_read_as_it_computes(toy_folder):
    from transformer_lens.model_bridge import TransformerBridge

    model = TransformerBridge.boot_transformers(str(toy_folder("cohere")), device="cpu")
    result = ig_lens(model.eval(), IDS)
    np.testing.assert_allclose(result.final, own_probs(model), atol=1e-6)


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_the_runtime_check_reports_rounding_only(toy_model, name, backend):
    check = check_model(adapt(toy_model(name, backend)), torch.tensor(IDS))
    assert check.readout_error < 1e-6
    assert check.additivity_error < 1e-6


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_neox_parallel"])
def test_half_precision_models_report_their_own_rounding(toy_model, name, dtype):
    model = toy_model(name, "bridge", dtype)
    result = ig_lens(model, IDS)
    rounding = np.abs(result.final - own_probs(model)).max()
    assert 1e-6 < rounding <= result.provenance.checks["readout_error"] < 5e-2
    assert any(f"{dtype} and is read out in float32" in note for note in result.provenance.notes)
    np.testing.assert_allclose(result.completeness_error, 0, atol=1e-12)


def test_a_readout_that_disagrees_with_the_model_is_an_error(toy_folder):
    from iglens_tl import load_model

    model = load_model(toy_folder("llama"), backend="bridge")
    hook = ("ln_final.hook_out", lambda states, hook: states * 1.5)
    with model.hooks(fwd_hooks=[hook]), pytest.raises(ValueError, match=r"llama.*by up to 0\.\d"):
        ig_lens(model, IDS)


def test_a_residual_stream_that_does_not_add_up_is_an_error(toy_folder):
    from iglens_tl import load_model

    adapter = adapt(load_model(toy_folder("llama")))
    without_mlp = replace(adapter, block_kind="attention_only")
    with pytest.raises(ValueError, match=r"llama .* a block's input plus .* differs .* by 0\.\d"):
        ig_lens(without_mlp, IDS)


def test_a_device_without_float64_is_refused_with_the_remedy():
    require_float64(torch.device("cuda"), "any")
    with pytest.raises(ValueError, match="toy is on an mps device.*move it to the cpu"):
        require_float64(torch.device("mps"), "toy")


def test_the_check_is_repeated_only_after_weights_changed(toy_folder, monkeypatch):
    from iglens_tl import load_model
    from iglens_tl.models import checks

    model = load_model(toy_folder("llama"))
    calls = []
    original = checks._run_check
    monkeypatch.setattr(checks, "_run_check", lambda *a: calls.append(1) or original(*a))
    ig_lens(model, IDS)
    before = ig_lens(model, IDS)
    assert len(calls) == 1
    with torch.no_grad():
        next(iter(model.parameters())).mul_(1.5)
    after = ig_lens(model, IDS)
    assert len(calls) == 2
    assert np.abs(after.final - before.final).max() > 1e-3


def test_hooks_of_the_user_stay_active_and_none_is_left_behind(toy_folder):
    from iglens_tl import load_model

    model = load_model(toy_folder("llama"))
    plain = ig_lens(model, IDS)
    steering = torch.full((32,), 0.5)
    model.add_hook("blocks.1.hook_resid_post", lambda states, hook: states + steering)
    steered = ig_lens(model, IDS)
    np.testing.assert_allclose(steered.final, own_probs(model), atol=1e-6)
    assert np.abs(steered.final - plain.final).max() > 1e-4
    assert sum(len(point.fwd_hooks) for point in _hook_points(model)) == 1
    model.reset_hooks()
    np.testing.assert_allclose(ig_lens(model, IDS).final, plain.final, atol=1e-7)


def test_hooks_are_removed_when_a_run_fails(toy_folder):
    from iglens_tl import load_model

    adapter = adapt(load_model(toy_folder("llama")))

    def fail(activation):
        raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        capture(adapter, torch.tensor([IDS]), {"blocks.1.hook_resid_post": fail})
    assert not any(point.fwd_hooks for point in _hook_points(adapter.model))


def test_dropout_is_off_during_a_run_and_the_mode_is_restored(toy_folder):
    from iglens_tl import load_model

    model = load_model(toy_folder("gpt2"), backend="bridge")
    expected = ig_lens(model, IDS).final
    model.train()
    assert_close_to(ig_lens(model, IDS).final, expected, dtype=torch.float32)
    assert model.training


def test_weights_that_are_nan_are_an_error_that_names_the_layer(toy_folder):
    from iglens_tl import load_model

    model = load_model(toy_folder("llama"))
    ig_lens(model, IDS)
    model.add_hook("blocks.1.hook_mlp_out", lambda update, hook: update * torch.nan)
    with pytest.raises(ValueError, match="at blocks.1.hook_resid_post are NaN or infinite"):
        ig_lens(model, IDS)
    model.reset_hooks()


def test_other_objects_are_no_model():
    kinds = "must be a HookedTransformer, a TransformerBridge or a Hugging Face model, got torch"
    with pytest.raises(TypeError, match=kinds):
        ig_lens(torch.nn.Linear(2, 2), IDS)
    with pytest.raises(TypeError, match="got builtins.str; load one with iglens_tl.load_model"):
        ig_lens("demo", IDS)


def test_the_tolerance_is_the_documented_one():
    assert READOUT_TOLERANCE == 1e-5


def _hook_points(model):
    return {id(point): point for point in model.hook_dict.values()}.values()
