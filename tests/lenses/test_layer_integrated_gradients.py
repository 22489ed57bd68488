"""Layer integrated gradients: each layer explains a difference of its own."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from iglens_tl import (
    CompletenessWarning,
    LayerIntegratedGradients,
    ig_lens,
    layer_integrated_gradients,
)
from iglens_tl.lenses import input_paths
from iglens_tl.lenses.layer_ig import LAYER_BASELINES
from iglens_tl.models import adapt, capture
from iglens_tl.trace import begin_trace
from tests.support.cases import EVERY_MODEL, IDS
from tests.support.closeness import assert_close_to, assert_far_from

PROMPT, NEXT = IDS[:6], IDS[6]
# Their routing jumps along the path, and no integral of gradients sees a jump.
EXPERTS = ("mixtral", "olmoe")


def measure(model, prompt=PROMPT, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CompletenessWarning)
        options = {"targets": [NEXT], "value": "logprob"} | options
        return layer_integrated_gradients(model, prompt, **options)


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_each_layer_sums_to_its_own_difference(toy_model, name, backend):
    model = toy_model(name, backend)
    adapter = adapt(model)
    steps = 2 if name in EXPERTS else 60
    result = measure(model, positions="all", n_steps=steps)
    sites = [adapter.embed_site, *(adapter.post_site(layer) for layer in range(3))]
    states = capture(adapter, torch.tensor([PROMPT]), dict.fromkeys(sites, torch.clone))
    assert result.segments == ("embed", "L0", "L1", "L2")
    for segment, site in enumerate(sites):
        mean = states[site].mean(1, keepdim=True).expand_as(states[site])
        with torch.no_grad():
            hooks = [(site, lambda state, hook, mean=mean: mean.clone())]
            logits = model.run_with_hooks(torch.tensor([PROMPT]), fwd_hooks=hooks)[0, -1].double()
        own = logits.log_softmax(-1)[NEXT].item()
        assert (result.levels - result.values)[0, segment] == pytest.approx(own, abs=1e-4)
        if name not in EXPERTS:
            assert result.values[0, segment] == pytest.approx(result.final[0] - own, abs=0.02)
    assert_close_to(result.baseline[0], (result.levels - result.values)[0, 0])
    expected = ig_lens(model, PROMPT, targets=[NEXT], value="logprob").final
    assert_close_to(result.final, expected, dtype=torch.float32)


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_the_last_layer_acts_through_the_read_position_only(toy_model, name, backend):
    model = toy_model(name, backend)
    options = {"n_steps": 3, "layers": [2]}
    last, total = (measure(model, positions=view, **options) for view in ("read", "all"))
    assert last.segments == ("embed", "L2")
    np.testing.assert_allclose(last.values[:, -1], total.values[:, -1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("baseline", ["input_mean", "input_zero"])
def test_under_a_baseline_input_every_layer_explains_the_same(toy_model, baseline):
    result = measure(toy_model("gpt2", "bridge", "float64"), baseline=baseline, n_steps=20)
    starts = result.levels - result.values
    np.testing.assert_allclose(starts, np.broadcast_to(starts[:, :1], starts.shape), atol=1e-9)


def test_gauss_legendre_converges_fast(toy_model):
    model = toy_model("gpt2", "bridge", "float64")
    result = measure(model, positions="all", n_steps=100)
    np.testing.assert_allclose(result.levels, result.final[:, None].repeat(4, 1), atol=1e-6)


def test_the_zero_baseline_of_a_model_with_norms_is_flagged(toy):
    with pytest.warns(CompletenessWarning, match="mean baseline"):
        layer_integrated_gradients(toy, PROMPT, targets=[NEXT], baseline="zero", n_steps=4)


@pytest.mark.parametrize("baseline", LAYER_BASELINES)
def test_the_size_of_the_parts_changes_nothing(toy, monkeypatch, baseline):
    options = {"targets": [NEXT, 30], "n_steps": 6, "baseline": baseline, "value": "logit"}
    whole = measure(toy, **options)
    monkeypatch.setattr(input_paths, "TOKENS_PER_PASS", 18)
    parts = measure(toy, **options)
    np.testing.assert_allclose(parts.values, whole.values, atol=1e-4, rtol=1e-4)


def test_targets_and_prompts_are_measured_as_one_by_one(toy):
    options = {"n_steps": 4, "value": "logit"}
    both = measure(toy, [PROMPT, IDS], targets=[NEXT, 30], **options)
    for number, prompt in enumerate((PROMPT, IDS)):
        for place, target in enumerate((NEXT, 30)):
            single = measure(toy, prompt, targets=[target], **options)
            found = both.values[2 * number + place]
            assert_close_to(found, single.values[0], dtype=torch.float32)


@pytest.mark.parametrize(("baseline", "extra"), [("mean", 0), ("input_zero", 1)])
def test_passes_count_every_node_of_every_layer(toy, baseline, extra):
    adapter = adapt(toy)
    lens = LayerIntegratedGradients(n_steps=50, baseline=baseline)
    trace = begin_trace(adapter, [PROMPT, IDS], targets=[NEXT, 30, 31])
    assert lens.passes(trace) == (2 * (4 * 51 + extra), 2 * 3 * 4 * 51)


def test_a_users_hooks_stay_active_and_the_model_is_left_as_it_was(toy_folder):
    from iglens_tl import load_model

    model = load_model(toy_folder("llama")).train()
    model.requires_grad_(True)
    adapter = adapt(model)
    silence = (adapter.attn_site(1), lambda update, hook: torch.zeros_like(update))
    untouched = measure(model, positions="all", value="logit")
    with torch.no_grad(), model.hooks(fwd_hooks=[silence]):
        result = measure(model, positions="all", value="logit")
        expected = ig_lens(model, PROMPT, targets=[NEXT], value="logit").final
    assert_close_to(result.final, expected, dtype=torch.float32)
    assert_far_from(result.final, untouched.final)
    np.testing.assert_allclose(result.levels[:, 1:], result.final[:, None].repeat(3, 1), atol=0.01)
    assert model.training
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"positions": "some"}, ValueError, "unknown positions 'some'; choose one of read, all"),
        ({"baseline": "embed"}, ValueError, "unknown baseline 'embed'; choose one of mean"),
        ({"value": "odds"}, ValueError, "unknown value 'odds'"),
        ({"layers": [9]}, ValueError, "layer 9 is out of range"),
        ({"n_steps": 0}, ValueError, "at least 1, got 0"),
        ({"n_steps": "5"}, TypeError, "must be an integer, got str"),
    ],
)
def test_bad_options_are_explained(toy, options, error, match):
    with pytest.raises(error, match=match):
        layer_integrated_gradients(toy, PROMPT, targets=[NEXT], **options)


def test_captum_finds_the_same_integrated_gradients(toy_model):
    captum = pytest.importorskip("captum.attr")
    model = toy_model("gpt2", "bridge", "float64")
    adapter = adapt(model)
    tokens = torch.tensor([PROMPT])
    states = capture(adapter, tokens, {adapter.embed_site: torch.clone})[adapter.embed_site]
    baseline = states.mean(1, keepdim=True).expand_as(states)

    def log_probability(embeddings):
        hook = (adapter.embed_site, lambda state, hook: embeddings)
        rows = tokens.expand(len(embeddings), -1)
        logits = model.run_with_hooks(rows, fwd_hooks=[hook])[:, -1]
        return logits.log_softmax(-1)[:, NEXT]

    options = {"baseline": "input_mean", "n_steps": 20}
    ours = {view: measure(model, positions=view, **options) for view in ("read", "all")}
    for layer in range(3):
        lens = captum.LayerIntegratedGradients(log_probability, model.blocks[layer].hook_out)
        theirs = lens.attribute(states, baselines=baseline, n_steps=20)[0].sum(-1).detach()
        assert ours["read"].values[0, layer + 1] == pytest.approx(theirs[-1].item(), abs=1e-6)
        assert ours["all"].values[0, layer + 1] == pytest.approx(theirs.sum().item(), abs=1e-6)
