"""Layer conductance: every layer passes the whole change on, and what the user sees of it."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from iglens_tl import (
    CompletenessWarning,
    LayerConductance,
    conductance_by_position,
    ig_lens,
    layer_conductance,
)
from iglens_tl.lenses import input_paths
from iglens_tl.models import adapt, capture
from iglens_tl.models.gradients import run_from_states
from iglens_tl.trace import begin_trace
from tests.support.cases import EVERY_MODEL, IDS
from tests.support.closeness import assert_close_to, assert_identical
from tests.support.native import native_bridge

PROMPT, NEXT = IDS[:6], IDS[6]
VIEWS = {
    "last": {"positions": "read"},
    "total": {"positions": "all"},
    "sublayer": {"by": "sublayer", "positions": "all"},
}
# Their routing jumps along the path, and no integral of gradients sees a jump.
EXPERTS = ("mixtral", "olmoe")


def totals(model, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CompletenessWarning)
        options = {"targets": [NEXT], "positions": "all", "value": "logprob"} | options
        return layer_conductance(model, PROMPT, **options)


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_every_layer_passes_the_whole_change_on(toy_model, name, backend):
    if name in EXPERTS:
        pytest.skip("switching experts are jumps")
    model = toy_model(name, backend)
    result = totals(model, n_steps=400)
    assert result.segments == ("embed", "L0", "L1", "L2")
    change = (result.final - result.baseline)[:, None]
    np.testing.assert_allclose(result.values, np.broadcast_to(change, (1, 4)), atol=5e-3)
    expected = ig_lens(model, PROMPT, targets=[NEXT], value="logprob").final
    assert_close_to(result.final, expected, dtype=torch.float32)


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_the_last_layer_acts_through_the_read_position_only(toy_model, name, backend):
    model = toy_model(name, backend)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CompletenessWarning)
        last = layer_conductance(model, PROMPT, targets=[NEXT], n_steps=7, value="logprob")
    total = totals(model, n_steps=7)
    np.testing.assert_allclose(last.values[:, -1], total.values[:, -1], rtol=1e-4, atol=1e-5)
    assert_close_to(last.levels, last.values + last.baseline[:, None])


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_the_value_at_the_baseline_is_what_the_model_makes_of_it(toy_model, name, backend):
    model = toy_model(name, backend)
    adapter = adapt(model)
    states = capture(adapter, torch.tensor([PROMPT]), {adapter.embed_site: torch.clone})
    mean = states[adapter.embed_site].mean(1, keepdim=True)
    hook = (adapter.embed_site, lambda state, hook: mean.expand_as(state))
    with torch.no_grad():
        logits = model.run_with_hooks(torch.tensor([PROMPT]), fwd_hooks=[hook])[0, -1]
    expected = logits.double().log_softmax(-1)[NEXT].item()
    assert totals(model, n_steps=1).baseline[0] == pytest.approx(expected, abs=1e-4)


def test_the_error_falls_with_the_square_of_the_steps(toy_model):
    model = toy_model("gpt2", "bridge", "float64")
    errors = []
    for n_steps in (200, 400, 800):
        result = totals(model, n_steps=n_steps)
        errors.append(np.abs(result.values - (result.final - result.baseline)[:, None]).max())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.3)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.3)


def test_attention_only_blocks_have_no_mlp_segment():
    model = native_bridge(attn_only=True, n_layers=2)
    result = layer_conductance(
        model, PROMPT, targets=[NEXT], by="sublayer", positions="all", n_steps=1600, value="logprob"
    )
    assert result.segments == ("embed", "L0.attn", "L1.attn")
    assert_close_to(result.values[:, 0], result.final - result.baseline, tolerance=1e-2)


@pytest.mark.parametrize("name", ["llama", "gpt2", "phi"])
def test_positions_add_up_to_the_views(toy_model, name):
    model = toy_model(name, "bridge")
    options = {"answer": IDS[6:8], "n_steps": 200, "value": "logit"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CompletenessWarning)
        views = {view: layer_conductance(model, PROMPT, **VIEWS[view], **options) for view in VIEWS}
    table = conductance_by_position(model, PROMPT, **options)
    assert table["source"].max() == len(PROMPT)
    summed = table.groupby(["position", "segment"], sort=False)["value"].sum().unstack(sort=False)
    assert_close_to(summed.to_numpy(), views["total"].values, dtype=torch.float32)
    own = table[table["source"] == table["position"]]
    own_values = own["value"].to_numpy().reshape(2, 4)
    assert_close_to(own_values, views["last"].values, dtype=torch.float32)
    fine = conductance_by_position(model, PROMPT, by="sublayer", **options)
    summed = fine.groupby(["position", "segment"], sort=False)["value"].sum().unstack(sort=False)
    assert_close_to(summed.to_numpy(), views["sublayer"].values, dtype=torch.float32)
    assert list(summed.columns) == list(views["sublayer"].segments)


@pytest.mark.parametrize("view", VIEWS)
def test_the_size_of_the_parts_changes_nothing(toy, monkeypatch, view):
    options = {"answer": IDS[6:9], **VIEWS[view], "n_steps": 20, "baseline": "mean_causal"}
    whole = layer_conductance(toy, PROMPT, value="logit", **options)
    for tokens in (1, 27):  # one and three nodes at a time
        monkeypatch.setattr(input_paths, "TOKENS_PER_PASS", tokens)
        parts = layer_conductance(toy, PROMPT, value="logit", **options)
        np.testing.assert_allclose(parts.values, whole.values, atol=1e-4)
        np.testing.assert_allclose(parts.baseline, whole.baseline, atol=1e-5)


def test_targets_and_prompts_are_measured_as_one_by_one(toy):
    options = {"n_steps": 10, "value": "logit"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CompletenessWarning)
        both = layer_conductance(toy, [PROMPT, IDS], targets=[NEXT, 30], **options)
        for number, prompt in enumerate((PROMPT, IDS)):
            for place, target in enumerate((NEXT, 30)):
                single = layer_conductance(toy, prompt, targets=[target], **options)
                found = both.values[2 * number + place]
                assert_close_to(found, single.values[0], dtype=torch.float32)


def test_passes_count_every_node(toy):
    adapter = adapt(toy)
    lens = LayerConductance(n_steps=50)
    trace = begin_trace(adapter, [PROMPT, IDS], targets=[NEXT, 30, 31])
    assert lens.passes(trace) == (2 * 51, 2 * 3 * 51)


def test_a_users_hooks_stay_active(toy):
    adapter = adapt(toy)

    def silence(update, hook):
        return torch.zeros_like(update)

    with toy.hooks(fwd_hooks=[(adapter.attn_site(1), silence)]):
        result = layer_conductance(
            toy, PROMPT, targets=[NEXT], by="sublayer", positions="all", n_steps=200, value="logit"
        )
        expected = ig_lens(toy, PROMPT, targets=[NEXT], value="logit").final
    assert_close_to(result.final, expected, dtype=torch.float32)
    frame = result.to_frame()
    assert frame["L1.attn"].item() == 0
    assert abs(frame["L0.attn"].item()) > 1e-3
    assert frame["embed"].item() == pytest.approx((result.final - result.baseline).item(), rel=0.01)


def test_a_hook_that_cuts_the_stream_leaves_nothing_to_flow_below_it(toy):
    adapter = adapt(toy)
    fixed = (adapter.post_site(1), lambda state, hook: torch.ones_like(state))
    with toy.hooks(fwd_hooks=[fixed]):
        result = layer_conductance(toy, PROMPT, targets=[NEXT], n_steps=4)
    assert_close_to(result.values, 0, dtype=torch.float32, size=1)


def test_the_model_is_left_as_it_was(toy_folder):
    from iglens_tl import load_model

    model = load_model(toy_folder("llama"))
    weights = list(model.parameters())
    weights[0].requires_grad_(True)
    flags = [weight.requires_grad for weight in weights]
    model.train()
    with torch.no_grad():
        layer_conductance(model, PROMPT, targets=[NEXT], n_steps=50, value="logit")
    with torch.inference_mode():
        layer_conductance(model, PROMPT, targets=[NEXT], n_steps=50, value="logit")
    assert model.training
    assert [weight.requires_grad for weight in weights] == flags
    assert all(weight.grad is None for weight in weights)


def test_hooks_and_modes_are_restored_after_an_error(toy_folder):
    from iglens_tl import load_model

    model = load_model(toy_folder("llama")).train()
    model.requires_grad_(True)
    adapter = adapt(model)

    def fail(state, hook):
        raise RuntimeError("a hook of the user's")

    states = torch.zeros(2, len(PROMPT), adapter.readout.d_model)
    with (
        model.hooks(fwd_hooks=[(adapter.post_site(1), fail)]),
        pytest.raises(RuntimeError, match="of the user's"),
    ):
        run_from_states(
            adapter, PROMPT, states, start=adapter.embed_site, keep=[adapter.post_site(2)]
        )
    assert model.training
    assert all(weight.requires_grad for weight in model.parameters())
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_a_hook_that_does_not_fire_is_named(toy):
    adapter = adapt(toy)
    states = torch.zeros(1, len(PROMPT), adapter.readout.d_model)
    with pytest.raises((ValueError, KeyError), match="hook_nothing"):
        run_from_states(
            adapter, PROMPT, states, start=adapter.embed_site, keep=["blocks.0.hook_nothing"]
        )


def test_the_zero_baseline_of_a_model_with_norms_is_flagged(toy):
    with pytest.warns(CompletenessWarning, match="mean baseline"):
        layer_conductance(toy, PROMPT, targets=[NEXT], baseline="zero")


def test_a_vector_is_a_baseline(toy):
    adapter = adapt(toy)
    states = capture(adapter, torch.tensor([PROMPT]), {adapter.embed_site: torch.clone})
    mean = states[adapter.embed_site][0].mean(0)
    options = {"targets": [NEXT], "n_steps": 100, "value": "logprob"}
    by_name = layer_conductance(toy, PROMPT, **options)
    by_vector = layer_conductance(toy, PROMPT, baseline=mean, **options)
    np.testing.assert_allclose(by_vector.values, by_name.values, rtol=1e-3, atol=1e-4)
    assert by_vector.provenance.options["baseline"] == "vector"
    assert "same total" in by_vector.provenance.notes[0]


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_other_precisions(toy_model, dtype):
    result = totals(toy_model("llama", "bridge", dtype), n_steps=200)
    exact = totals(toy_model("llama", "bridge"), n_steps=200)
    rtol = {"bfloat16": 0.2, "float64": 1e-3}[dtype]
    assert_close_to(result.values, exact.values, tolerance=rtol)


def test_results_are_tabled_stored_and_drawn(toy, tmp_path):
    result = layer_conductance(toy, PROMPT, answer=IDS[6:8], n_steps=100, value="logit")
    loaded = type(result).load(result.save(tmp_path / "result.json"))
    assert_identical(loaded.values, result.values)
    assert result.to_frame().columns.tolist() == ["embed", "L0", "L1", "L2", "final", "onset"]
    assert result.to_frame(tidy=True)["level"].notna().all()
    assert result.heatmap().data
    assert np.isnan(result.completeness_error).all()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"positions": "middle"}, ValueError, "unknown positions 'middle'; choose one of read"),
        ({"baseline": "noise"}, ValueError, "unknown baseline 'noise'"),
        ({"baseline": "embed"}, ValueError, "nothing would flow"),
        ({"baseline": [0.0] * 5}, ValueError, r"shape \(5,\), expected \(32,\)"),
        ({"baseline": 3}, TypeError, "a name or a vector"),
        ({"value": "odds"}, ValueError, "unknown value 'odds'"),
        ({"n_steps": 0}, ValueError, "at least 1, got 0"),
        ({"n_steps": 2.5}, TypeError, "must be an integer, got float"),
        ({"n_steps": True}, TypeError, "must be an integer, got bool"),
    ],
)
def test_bad_options_are_explained(toy, options, error, match):
    with pytest.raises(error, match=match):
        layer_conductance(toy, PROMPT, targets=[NEXT], **options)


def test_captum_finds_the_same_conductances(toy_model):
    """Captum takes the gradient at the left of every step; with many steps that is the same."""
    captum = pytest.importorskip("captum.attr")
    model = toy_model("gpt2", "bridge", "float64")
    adapter = adapt(model)
    tokens = torch.tensor([PROMPT])
    states = capture(adapter, tokens, {adapter.embed_site: torch.clone})[adapter.embed_site]
    n_steps = 1000
    ours = conductance_by_position(model, PROMPT, targets=[NEXT], value="logprob", n_steps=n_steps)
    ours = ours.pivot(index="segment", columns="source", values="value")

    def log_probability(embeddings):
        hook = (adapter.embed_site, lambda state, hook: embeddings)
        rows = tokens.expand(len(embeddings), -1)
        logits = model.run_with_hooks(rows, fwd_hooks=[hook])[:, -1]
        return logits.log_softmax(-1)[:, NEXT]

    for layer in range(3):
        theirs = captum.LayerConductance(log_probability, model.blocks[layer].hook_out).attribute(
            states,
            baselines=states.mean(1, keepdim=True).expand_as(states),
            n_steps=n_steps,
            method="riemann_trapezoid",
            internal_batch_size=100,
        )
        np.testing.assert_allclose(ours.loc[f"L{layer}"], theirs[0].sum(-1).detach(), atol=1e-3)
