"""The exact identities of IG-Lens, on every family, as both model classes, in both precisions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from iglens_tl import IGLens, ig_lens, trace_prompt
from iglens_tl.models import adapt
from tests.support.cases import (
    EVERY_MODEL,
    EVERY_MODEL_AND_DTYPE,
    EVERY_MODEL_IN_FLOAT64,
    IDS,
)
from tests.support.closeness import assert_close_to

SUM_TOLERANCE = {"float32": 1e-6, "float64": 1e-12}
# Hugging Face computes RMS norms in float32 even in float64 models.
MODEL_TOLERANCE = {"float32": 1e-6, "float64": 5e-7}


@pytest.mark.parametrize(("name", "backend", "dtype"), EVERY_MODEL_AND_DTYPE)
def test_credits_sum_to_the_change_of_hugging_faces_own_probability(
    toy_model, hf_probs, name, backend, dtype
):
    result = ig_lens(toy_model(name, backend, dtype), IDS)
    expected = hf_probs(name, IDS, getattr(torch, dtype))[:-1]
    expected = expected.gather(1, torch.tensor(IDS[1:])[:, None])[:, 0].numpy()
    np.testing.assert_allclose(result.final, expected, atol=MODEL_TOLERANCE[dtype], rtol=0)
    np.testing.assert_allclose(
        result.values.sum(1), result.final - result.baseline, atol=SUM_TOLERANCE[dtype], rtol=0
    )


@pytest.mark.parametrize("value", ["prob", "logprob", "logit"])
@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_levels_are_what_the_model_computes_when_it_exits_early(toy_model, name, backend, value):
    model = toy_model(name, backend)
    adapter = adapt(model)
    result = ig_lens(model, IDS, value=value, baseline="embed")
    for layer in range(-1, adapter.n_layers):
        skipped = [
            (site, lambda update, hook: torch.zeros_like(update))
            for later in range(layer + 1, adapter.n_layers)
            for site in adapter.update_sites(later)
        ]
        with torch.no_grad():
            logits = model.run_with_hooks(torch.tensor([IDS]), fwd_hooks=skipped)[0, :-1].double()
        exited = {
            "prob": logits.softmax(-1),
            "logprob": logits.log_softmax(-1),
            "logit": logits,
        }[value].gather(1, torch.tensor(IDS[1:])[:, None])[:, 0]
        size = max(1.0, float(exited.abs().max()))
        assert_close_to(result.levels[:, layer + 1], exited, dtype=torch.float32, size=size)


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_the_last_layers_credit_is_the_effect_of_skipping_it(toy_model, name, backend):
    model = toy_model(name, backend)
    adapter = adapt(model)
    skip_last = [
        (site, lambda update, hook: torch.zeros_like(update))
        for site in adapter.update_sites(adapter.n_layers - 1)
    ]
    with torch.no_grad():
        probs = [
            model.run_with_hooks(torch.tensor([IDS]), fwd_hooks=hooks)[0, :-1].double().softmax(-1)
            for hooks in ([], skip_last)
        ]
    effect = (probs[0] - probs[1]).gather(1, torch.tensor(IDS[1:])[:, None])[:, 0]
    np.testing.assert_allclose(ig_lens(model, IDS).values[:, -1], effect, atol=1e-6)


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL_IN_FLOAT64)
def test_coarser_chains_credit_the_sums_of_finer_ones(toy_model, name, backend):
    trace = trace_prompt(toy_model(name, backend, "float64"), IDS)
    fine, coarse = IGLens()(trace).to_frame(), IGLens(layers=[1])(trace)
    assert coarse.segments == ("embed", "L1", "L2")
    frame = coarse.to_frame()
    np.testing.assert_allclose(frame["L1"], fine["L0"] + fine["L1"], atol=1e-12)
    np.testing.assert_allclose(frame["embed"], fine["embed"], atol=1e-12)


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_sublayers_add_up_to_their_layer_or_are_refused(toy_model, name, backend):
    model = toy_model(name, backend)
    if adapt(model).block_kind == "parallel":
        with pytest.raises(ValueError, match="parallel.*by='layer'"):
            ig_lens(model, IDS, by="sublayer")
        return
    fine = ig_lens(model, IDS, by="sublayer").to_frame()
    whole = ig_lens(model, IDS).to_frame()
    for layer in range(3):
        total = fine[f"L{layer}.attn"] + fine[f"L{layer}.mlp"]
        np.testing.assert_allclose(total, whole[f"L{layer}"], atol=1e-6)


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL_IN_FLOAT64)
def test_the_baseline_changes_only_the_first_segment(toy_model, name, backend):
    trace = trace_prompt(toy_model(name, backend, "float64"), IDS)
    vector = np.linspace(-1, 1, trace.adapter.readout.d_model)
    results = [
        IGLens(baseline=baseline)(trace)
        for baseline in ("mean", "mean_causal", "zero", "embed", vector)
    ]
    for result in results[1:]:
        np.testing.assert_allclose(result.values[:, 1:], results[0].values[:, 1:], atol=1e-12)
        np.testing.assert_allclose(result.completeness_error, 0, atol=1e-12)
    np.testing.assert_allclose(results[3].values[:, 0], 0, atol=1e-12)


@pytest.mark.parametrize(("name", "backend", "dtype"), EVERY_MODEL_AND_DTYPE)
@pytest.mark.parametrize("baseline", ["mean", "zero"])
def test_the_gradient_estimator_agrees_with_delta(toy_model, name, backend, dtype, baseline):
    trace = trace_prompt(toy_model(name, backend, dtype), IDS)
    exact = IGLens(baseline=baseline)(trace)
    integrated = IGLens(baseline=baseline, estimator="gradient")(trace)
    # The tolerance to which the estimator integrates, and the rounding of levels.
    atol = {"float32": 1.1e-5, "float64": 1e-9}[dtype]
    np.testing.assert_allclose(integrated.values, exact.values, atol=atol)


def test_the_midpoint_rule_converges_to_delta_with_the_square_of_its_steps(toy_model):
    model = toy_model("llama", "auto", "float64")
    exact = ig_lens(model, IDS, baseline="embed").values
    errors = []
    for n_steps in (128, 256, 512):
        result = ig_lens(model, IDS, baseline="embed", estimator="riemann", n_steps=n_steps)
        errors.append(np.abs(result.values - exact).max())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.3)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.3)


def test_the_midpoint_rule_from_zero_is_flagged_as_incomplete(stories):
    from iglens_tl import CompletenessWarning

    prompt = "Once upon a time, there was a little girl named"
    with pytest.warns(CompletenessWarning, match="zero baseline"):
        result = ig_lens(
            stories, prompt, generate=4, baseline="zero", estimator="riemann", n_steps=4
        )
    assert np.abs(result.completeness_error).max() > 1e-2
    exact = ig_lens(stories, prompt, generate=4, baseline="zero")
    integrated = ig_lens(stories, prompt, generate=4, baseline="zero", estimator="gradient")
    np.testing.assert_allclose(integrated.values, exact.values, atol=1e-5)
