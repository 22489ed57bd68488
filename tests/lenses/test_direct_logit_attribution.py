"""Direct logit attribution: the rows sum to the model's logit, however finely they are split."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from iglens_tl import LogitDifference, direct_logit_attribution, load_model, logit_lens
from iglens_tl.models import adapt
from tests.support.cases import EVERY_MODEL, EVERY_MODEL_AND_DTYPE, HAS_HOOKED, IDS
from tests.support.closeness import assert_close_to
from tests.support.native import native_bridge, native_hooked

TARGETS = torch.tensor(IDS[1:])


def model_logits(model):
    """Return the model's own logits before its softcap."""
    with torch.no_grad():
        logits = model(torch.tensor([IDS]))[0, :-1].double()
    softcap = adapt(model).readout.transform.softcap
    return logits if softcap is None else softcap * torch.atanh(logits / softcap)


def columns_sum(frame, prefix):
    return frame[[column for column in frame if column.startswith(prefix)]].sum(axis=1)


@pytest.mark.parametrize("split", ["layer", "sublayer", "head"])
@pytest.mark.parametrize(("name", "backend", "dtype"), EVERY_MODEL_AND_DTYPE)
def test_rows_sum_to_the_models_logit_before_the_softcap(toy_model, name, backend, dtype, split):
    model = toy_model(name, backend, dtype)
    result = direct_logit_attribution(model, IDS, by=split)
    logits = model_logits(model)
    expected = logits.gather(1, TARGETS[:, None])[:, 0].numpy()
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(result.sums, expected, atol=1e-5 * scale, rtol=0)
    np.testing.assert_allclose(result.completeness_error, 0, atol=1e-5 * scale)
    assert_close_to(result.levels[:, -1], result.sums)
    assert result.unit == "logit"


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_heads_and_sublayers_add_up_to_their_layers(toy_model, name, backend):
    model = toy_model(name, backend)
    layers, sublayers, heads = (
        direct_logit_attribution(model, IDS, by=split).to_frame()
        for split in ("layer", "sublayer", "head")
    )
    for layer in range(3):
        whole = sublayers[f"L{layer}.attn"] + sublayers[f"L{layer}.mlp"]
        np.testing.assert_allclose(whole, layers[f"L{layer}"], atol=5e-5)
        by_head = columns_sum(heads, f"L{layer}.H") + columns_sum(heads, f"L{layer}.attn_bias")
        np.testing.assert_allclose(by_head, sublayers[f"L{layer}.attn"], atol=5e-5)


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_a_head_is_credited_with_what_it_writes_towards_the_target(toy_model, name, backend):
    model = toy_model(name, backend)
    adapter = adapt(model)
    last = adapter.n_layers - 1
    frame = direct_logit_attribution(model, IDS, by="head").to_frame()
    tokens = torch.tensor([IDS])
    _, cache = model.run_with_cache(tokens)
    readout = adapter.readout
    scale = readout.norm.scale(cache[adapter.post_site(last)][0, :-1])
    z = cache[f"blocks.{last}.attn.hook_z"][0, :-1]
    written = torch.einsum("pd,dm->pm", z[:, 1], model.blocks[last].attn.W_O[1])
    if name in ("gemma2", "gemma3", "olmo2", "granite"):
        total = torch.einsum("phd,hdm->pm", z, model.blocks[last].attn.W_O)
        if model.blocks[last].attn.b_O is not None:
            total = total + model.blocks[last].attn.b_O
        attn_out = cache[f"blocks.{last}.hook_attn_out"][0, :-1]
        written = written * (attn_out / total)
    share = readout.norm.direction(written) * scale[:, None]
    expected = (share * readout.unembed[:, TARGETS].T).sum(1) * readout.transform.scale
    np.testing.assert_allclose(frame[f"L{last}.H1"], expected.detach(), atol=2e-3, rtol=1e-3)


def test_layer_shares_are_the_increments_of_the_frozen_logit_lens(toy):
    shares = direct_logit_attribution(toy, IDS).to_frame()
    levels = logit_lens(toy, IDS, norm="frozen", value="logit")
    for layer in range(3):
        np.testing.assert_allclose(shares[f"L{layer}"], levels.changes[:, layer + 1], atol=1e-4)


@pytest.mark.parametrize("other", [" w9", 9])
def test_a_logit_difference_is_the_difference_of_the_shares(toy, other):
    text = "w17 w42 w5 w88 w23"
    value = LogitDifference(" w30", other)
    result = direct_logit_attribution(toy, text, targets=[" w61"], value=value)
    separate = direct_logit_attribution(toy, text, targets=[30, 9])
    difference = np.diff(separate.values[::-1], axis=0)[0]
    assert_close_to(result.values[0], difference, dtype=torch.float32)
    assert result.unit == "logit difference"


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox_parallel", "phi", "opt"])
def test_biases_have_rows_of_their_own_where_the_model_has_them(toy_model, name):
    model = toy_model(name, "bridge")
    readout = adapt(model).readout
    frame = direct_logit_attribution(model, IDS).to_frame()
    columns = readout.unembed[:, TARGETS].double()
    np.testing.assert_allclose(frame["norm_bias"], readout.norm.bias.double() @ columns, atol=1e-6)
    assert ("unembed_bias" in frame) == (readout.unembed_bias is not None)
    if readout.unembed_bias is not None:
        np.testing.assert_allclose(frame["unembed_bias"], readout.unembed_bias[TARGETS], atol=1e-6)


@pytest.mark.skipif(not HAS_HOOKED, reason="TransformerLens 4 has no HookedTransformer")
@pytest.mark.parametrize("normalization_type", ["LN", "RMS"])
def test_folding_moves_no_sublayers_share(normalization_type):
    raw = native_hooked(normalization_type=normalization_type)
    folded = native_hooked(normalization_type=normalization_type)
    # TransformerLens folds in float32, whatever the model computes in.
    folded.process_weights_(fold_ln=True, center_writing_weights=False, center_unembed=False)
    own, other = (
        direct_logit_attribution(model, IDS, by="sublayer").to_frame() for model in (raw, folded)
    )
    for column in (
        "embed",
        *(f"L{layer}.{part}" for layer in range(3) for part in ("attn", "mlp")),
    ):
        shares = own[column].to_numpy(), other[column].to_numpy()
        assert_close_to(*shares, tolerance=1e-4, size=abs(own["sum"]).max())
    by_head = direct_logit_attribution(folded, IDS, by="head").to_frame()
    assert_close_to(by_head["sum"].to_numpy(), own["sum"].to_numpy(), tolerance=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"normalization_type": None, "attn_only": True},
        {"normalization_type": "LN"},
        {"normalization_type": "RMS"},
    ],
)
def test_models_without_mlp_or_final_norm_are_split_as_well(options):
    model = native_bridge(**options)
    result = direct_logit_attribution(model, IDS, by="head")
    expected = model_logits(model).gather(1, TARGETS[:, None])[:, 0]
    # TransformerLens takes the root mean square in float32, whatever the model computes in.
    dtype = torch.float32 if options["normalization_type"] == "RMS" else torch.float64
    assert_close_to(result.sums, expected, dtype=dtype)
    assert ("L0.mlp" in result.segments) == ("attn_only" not in options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"by": "neuron"}, ValueError, "unknown split by 'neuron'; choose one of layer"),
        ({"value": "prob"}, ValueError, "no value 'prob': with a frozen norm only logits are lin"),
        ({"value": LogitDifference(9, 97)}, ValueError, "value token id 97 is not in the vocab"),
        ({"value": LogitDifference(9, " w9 w8")}, ValueError, "is 2 tokens"),
        ({"value": LogitDifference(9, 1.5)}, TypeError, "must be text or integer token ids, got f"),
        ({"contrast": " w9"}, TypeError, "direct_logit_attribution has no option 'contrast'; it h"),
    ],
)
def test_bad_options_are_named(toy, options, error, message):
    with pytest.raises(error, match=message):
        direct_logit_attribution(toy, IDS, **options)


def test_heads_that_do_not_add_up_are_an_error(toy_folder):
    model = load_model(toy_folder("llama"))
    hook = ("blocks.1.hook_attn_out", lambda output, hook: output * 1.5 + 1)
    with model.hooks(fwd_hooks=[hook]), pytest.raises(ValueError, match="heads of layer 1 do not"):
        direct_logit_attribution(model, IDS, by="head")


@pytest.mark.parametrize("by", ["sublayer", "head"])
def test_what_a_hook_adds_to_the_stream_is_said_beside_the_error(toy, by):
    def steer(state, hook):
        return state + torch.linspace(-1, 1, state.shape[-1])

    quiet = direct_logit_attribution(toy, IDS, by=by)
    assert not [note for note in quiet.provenance.notes if "miss the logit" in note]
    with toy.hooks(fwd_hooks=[("blocks.1.hook_resid_post", steer)]):
        steered = direct_logit_attribution(toy, IDS, by=by)
        whole = direct_logit_attribution(toy, IDS, by="layer")
    missed = abs(steered.completeness_error).max()
    assert missed > 0.05
    note = next(note for note in steered.provenance.notes if "miss the logit" in note)
    assert f"by up to {missed:.2g}" in note and f"by={by!r}" in note
    assert abs(whole.completeness_error).max() < 1e-4
    assert not [note for note in whole.provenance.notes if "miss the logit" in note]
