"""A trace is run once and measured by any number of lenses; a user's cache gives the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from iglens_tl import (
    Components,
    DirectLogitAttribution,
    IGLens,
    LayerConductance,
    LogitLens,
    Trace,
    compare,
    ig_lens,
    trace_prompt,
)
from iglens_tl.lenses.ig import ORDERS
from iglens_tl.models import adapt
from tests.support.cases import EVERY_MODEL, IDS

STATE_LENSES = (
    IGLens(),
    IGLens(baseline="zero"),
    IGLens(path="straight"),
    IGLens(path="shapley_frozen"),
    LogitLens(value="logprob"),
    DirectLogitAttribution(by="head"),
    Components(by="head"),
)
BATCH = [IDS, IDS[:4], IDS[2:7]]


def count_passes(model, run):
    """Return what a function returns, and how many forward passes it ran."""
    passes = []
    site = adapt(model).post_site(0)
    with model.hooks(fwd_hooks=[(site, lambda states, hook: passes.append(len(states)))]):
        run()  # the first use of a model, or of its hooks, also checks it
        passes.clear()
        return run(), len(passes)


def test_lenses_that_need_states_run_the_model_no_more(toy):
    trace, traced = count_passes(toy, lambda: trace_prompt(toy, IDS))
    assert traced == trace.n_forward_passes == 1
    results, more = count_passes(toy, lambda: [lens(trace) for lens in STATE_LENSES])
    assert more == 0
    assert trace.n_forward_passes == 1
    assert len({result.name for result in results}) == 4


def test_a_lens_that_needs_more_runs_the_model_once_and_the_trace_counts_it(toy):
    trace = trace_prompt(toy, IDS)
    by_source = Components(by="head_source")
    _, passes = count_passes(toy, lambda: Components(by="head_source")(trace_prompt(toy, IDS)))
    assert passes == 2
    first = by_source(trace)
    assert trace.n_forward_passes == 2
    again = by_source(trace)
    assert trace.n_forward_passes == 2
    np.testing.assert_allclose(again.values, first.values, atol=1e-7)
    LayerConductance(n_steps=4)(trace_with_noise := trace_prompt(toy, IDS[:3]))
    assert trace_with_noise.n_forward_passes == 1 + 5


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_a_users_cache_is_measured_as_the_prompt_is(toy_model, name, backend):
    model = toy_model(name, backend)
    tokens = torch.tensor([IDS, IDS[::-1]])
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    cached = Trace.from_cache(model, cache, tokens)
    run = trace_prompt(model, tokens)
    for lens in (IGLens(), LogitLens(), DirectLogitAttribution(by="head"), Components()):
        ours, theirs = lens(cached), lens(run)
        scale = max(1.0, np.abs(theirs.values).max())
        np.testing.assert_allclose(ours.values / scale, theirs.values / scale, atol=2e-6)
        assert ours.targets == theirs.targets
    assert cached.n_forward_passes == 0


def test_a_cache_of_one_text_may_have_lost_its_batch_axis(toy):
    tokens = torch.tensor([IDS])
    _, cache = toy.run_with_cache(tokens, remove_batch_dim=True)
    result = IGLens()(Trace.from_cache(toy, cache, tokens, targets=[9]))
    np.testing.assert_allclose(result.values, ig_lens(toy, IDS, targets=[9]).values, atol=1e-6)


def test_an_intervened_run_is_measured_as_it_was_cached(toy):
    site = adapt(toy).post_site(0)
    tokens = torch.tensor([IDS])
    with toy.hooks(fwd_hooks=[(site, lambda states, hook: states * 1.5)]):
        _, cache = toy.run_with_cache(tokens)
        expected = toy(tokens).softmax(-1)[0, -1, 9].item()
    result = IGLens()(Trace.from_cache(toy, cache, tokens, targets=[9]))
    assert result.final[0] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("answer", [IDS[6:], " w23 w9"])
def test_an_answer_with_which_the_cached_tokens_end_is_attributed(toy, answer):
    ids = IDS if isinstance(answer, list) else toy.tokenizer("w17 w42 w5 w23 w9")["input_ids"]
    _, cache = toy.run_with_cache(torch.tensor([ids]))
    result = IGLens()(Trace.from_cache(toy, cache, torch.tensor([ids]), answer=answer))
    n_answer = len(answer) if isinstance(answer, list) else 2
    assert [target.token_id for target in result.targets] == ids[-n_answer:]
    expected = ig_lens(toy, ids[:-n_answer], answer=ids[-n_answer:])
    np.testing.assert_allclose(result.values, expected.values, atol=1e-6)


def test_a_cache_without_the_needed_hooks_names_them(toy):
    tokens = torch.tensor([IDS])
    last = adapt(toy).post_site(2)
    _, cache = toy.run_with_cache(tokens, names_filter=lambda name: name == last)
    trace = Trace.from_cache(toy, cache, tokens)
    with pytest.raises(ValueError, match=r"lacks 3 hooks .*blocks\.0\.hook_resid_pre"):
        IGLens()(trace)
    _, cache = toy.run_with_cache(tokens, names_filter=lambda name: name == "hook_embed")
    with pytest.raises(ValueError, match=r"lacks 1 hooks .*blocks\.2\.hook_resid_post"):
        Trace.from_cache(toy, cache, tokens)


@pytest.mark.parametrize(
    ("tokens", "options", "error", "message"),
    [
        ([IDS[:-1]], {}, ValueError, "give the tokens that were run"),
        ([IDS, IDS], {}, ValueError, "give the tokens that were run"),
        ([IDS], {"answer": [3, 3]}, ValueError, "do not end in the answer"),
        ([IDS], {"answer": IDS[6:], "targets": [9]}, ValueError, "only one of answer and targets"),
    ],
)
def test_tokens_that_do_not_fit_a_cache_are_refused(toy, tokens, options, error, message):
    _, cache = toy.run_with_cache(torch.tensor([IDS]))
    with pytest.raises(error, match=message):
        Trace.from_cache(toy, cache, torch.tensor(tokens), **options)


def test_what_is_no_cache_or_no_trace_is_refused(toy):
    with pytest.raises(TypeError, match="cache must be an ActivationCache or a mapping"):
        Trace.from_cache(toy, 3, torch.tensor([IDS]))
    with pytest.raises(TypeError, match="a lens measures a trace, got list; make one with trace_p"):
        IGLens()(IDS)
    trace = trace_prompt(toy, IDS)
    with pytest.raises(TypeError, match="a trace has its prompt and targets already; leave out ta"):
        compare(trace, [IGLens()], targets=[9])
    with pytest.raises(TypeError, match="give a prompt with a model, or a trace"):
        compare(toy)


def test_activations_leave_a_trace_with_named_axes(toy):
    trace = trace_prompt(toy, IDS, targets=[9, 30])
    states = trace.activations("resid_post")
    assert states.dims == ("target", "layer", "d_model")
    assert states.coords["layer"].values.tolist() == ["L0", "L1", "L2"]
    assert states.coords["token_id"].values.tolist() == [9, 30]
    _, cache = toy.run_with_cache(torch.tensor([IDS]))
    expected = cache["blocks.1.hook_resid_post"][0, -1].numpy()
    np.testing.assert_allclose(states.sel(layer="L1")[0], expected, rtol=1e-5, atol=1e-5)
    assert trace.activations("z").dims == ("target", "layer", "head", "d_head")
    assert trace.activations("embed").sizes["layer"] == 1
    with pytest.raises(ValueError, match="unknown hook 'resid'; choose one of embed, resid_post"):
        trace.activations("resid")


def test_every_credit_order_is_a_lens_of_its_own(toy):
    trace = trace_prompt(toy, BATCH)
    for path, order in ORDERS.items():
        own, by_name = order()(trace), IGLens(path=path)(trace)
        np.testing.assert_allclose(own.values, by_name.values, atol=1e-6)
        assert own.kind == by_name.kind
        assert own.provenance.options["path"] == path
