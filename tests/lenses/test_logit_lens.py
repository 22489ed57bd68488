"""The logit lens against the model itself, IG-Lens and TransformerLens 4."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from iglens_tl import ig_lens, logit_lens
from iglens_tl.models import adapt
from tests.support.cases import EVERY_MODEL, IDS, TL_VERSION
from tests.support.closeness import assert_close_to, assert_identical


def exit_log_probs(model, layer):
    """Return the log-probabilities of a model that skips all blocks after one."""
    adapter = adapt(model)
    skipped = [
        (site, lambda update, hook: torch.zeros_like(update))
        for later in range(layer + 1, adapter.n_layers)
        for site in adapter.update_sites(later)
    ]
    with torch.no_grad():
        logits = model.run_with_hooks(torch.tensor([IDS]), fwd_hooks=skipped)[0, :-1]
    return logits.double().log_softmax(-1)


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_levels_and_statistics_are_those_of_a_model_that_exits_early(toy_model, name, backend):
    model = toy_model(name, backend)
    result = logit_lens(model, IDS)
    final = exit_log_probs(model, adapt(model).n_layers - 1)
    for layer in range(-1, adapt(model).n_layers):
        log_probs = exit_log_probs(model, layer)
        at_targets = log_probs.gather(1, torch.tensor(IDS[1:])[:, None])
        np.testing.assert_allclose(result.levels[:, layer + 1], at_targets[:, 0].exp(), atol=1e-5)
        entropies = -(log_probs.exp() * log_probs).sum(1)
        np.testing.assert_allclose(
            result.statistics["entropy"][:, layer + 1], entropies, atol=2e-4, rtol=1e-4
        )
        divergences = (final.exp() * (final - log_probs)).sum(1)
        np.testing.assert_allclose(
            result.statistics["kl_to_final"][:, layer + 1], divergences, atol=2e-4, rtol=1e-4
        )
        ranks = (log_probs > at_targets).sum(1) + 1
        assert (np.abs(result.ranks[:, layer + 1] - ranks.numpy()) <= 1).all()


@pytest.mark.parametrize("value", ["prob", "logprob", "logit"])
def test_its_differences_are_the_credits_of_ig_lens(toy, value):
    levels = logit_lens(toy, IDS, value=value)
    credits = ig_lens(toy, IDS, value=value, baseline="embed")
    assert_close_to(levels.changes, credits.values, dtype=torch.float32)
    assert not levels.additive
    assert np.isnan(levels.completeness_error).all()
    assert list(levels.to_frame().columns[-2:]) == ["final", "onset"]


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_the_last_state_diverges_from_nothing(toy_model, name, backend):
    for norm in ("own", "frozen"):
        result = logit_lens(toy_model(name, backend), IDS, norm=norm)
        np.testing.assert_allclose(result.statistics["kl_to_final"][:, -1], 0, atol=1e-6)
        np.testing.assert_allclose(
            result.levels[:, -1], ig_lens(toy_model(name, backend), IDS).final, atol=1e-6
        )


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_a_frozen_norm_applies_the_last_states_scale_to_every_state(toy_model, name, backend):
    model = toy_model(name, backend)
    readout = adapt(model).readout
    _, cache = model.run_with_cache(torch.tensor([IDS]))
    last = cache[f"blocks.{adapt(model).n_layers - 1}.hook_resid_post"][0, :-1]
    early = cache["blocks.0.hook_resid_post"][0, :-1]
    result = logit_lens(model, IDS, norm="frozen", value="logit")
    normalized = readout.norm.direction(early) * readout.norm.scale(last)[:, None]
    if readout.norm.bias is not None:
        normalized = normalized + readout.norm.bias
    logits = normalized @ readout.unembed
    if readout.unembed_bias is not None:
        logits = logits + readout.unembed_bias
    expected = readout.transform(logits).gather(1, torch.tensor(IDS[1:])[:, None])[:, 0]
    np.testing.assert_allclose(result.levels[:, 1], expected, atol=1e-4)


@pytest.mark.skipif(TL_VERSION.startswith("3."), reason="logit_lens came with TransformerLens 4")
@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_probabilities_agree_with_transformer_lens(toy_model, name, backend):
    from transformer_lens.tools.analysis import logit_readout

    model = toy_model(name, backend)
    result = logit_lens(model, IDS)
    _, cache = model.run_with_cache(torch.tensor([IDS]))
    for layer in range(adapt(model).n_layers):
        states = cache[f"blocks.{layer}.hook_resid_post"][0, :-1]
        theirs = logit_readout(model, states, return_type="probs").values
        expected = theirs.gather(1, torch.tensor(IDS[1:])[:, None])[:, 0]
        np.testing.assert_allclose(result.levels[:, layer + 1], expected.detach(), atol=1e-6)


def test_an_unknown_norm_is_named(toy):
    with pytest.raises(ValueError, match="unknown norm 'cached'; choose one of own, frozen"):
        logit_lens(toy, IDS, norm="cached")


def test_a_result_with_statistics_survives_files_and_selection(toy, tmp_path):
    from iglens_tl import LensResult

    result = logit_lens(toy, [IDS, IDS[:4]])
    for suffix in ("json", "parquet"):
        loaded = LensResult.load(result.save(tmp_path / f"lens.{suffix}"))
        for name, numbers in result.statistics.items():
            assert_identical(loaded.statistics[name], numbers)
    second = result.for_prompt(1)
    expected = result.statistics["entropy"][len(IDS) - 1 :]
    assert_identical(second.statistics["entropy"], expected)
    assert {"entropy", "kl_to_final"} <= set(result.to_frame(tidy=True).columns)
    for show in ("entropy", "kl_to_final", "rank"):
        assert show in result.heatmap(show=show).layout.coloraxis.colorbar.title.text
