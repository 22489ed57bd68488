"""Credit orders: batches, candidates, parts, sampled games, and options that an order lacks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from iglens_tl import ig_lens
from iglens_tl.lenses.ig import PATHS, SHAPLEY_PATHS
from iglens_tl.lenses.orders import state_values
from tests.support.cases import HAS_HOOKED, IDS
from tests.support.closeness import assert_close_to, assert_identical
from tests.support.native import native_bridge, native_hooked

BATCH = [IDS[:6], [7, 7, 9], [1, 30, 12, 88, 5, 9]]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("baseline", ["mean", "mean_causal", "zero"])
def test_a_batch_gives_the_numbers_of_its_prompts_one_by_one(toy, path, baseline):
    batch = ig_lens(toy, BATCH, path=path, baseline=baseline)
    for index, prompt in enumerate(BATCH):
        alone = ig_lens(toy, prompt, path=path, baseline=baseline)
        np.testing.assert_allclose(batch.for_prompt(index).values, alone.values, atol=2e-6)


@pytest.mark.parametrize("path", PATHS)
def test_candidates_for_one_position_are_credited_each_by_itself(toy, path):
    both = ig_lens(toy, IDS, targets=[9, 30], path=path)
    for index, token in enumerate((9, 30)):
        alone = ig_lens(toy, IDS, targets=[token], path=path)
        np.testing.assert_allclose(both.values[index], alone.values[0], atol=1e-5)


@pytest.mark.parametrize("path", [*SHAPLEY_PATHS, "leave_one_out"])
def test_the_size_of_a_part_changes_nothing(toy, path, monkeypatch):
    whole = ig_lens(toy, BATCH, path=path)
    monkeypatch.setattr(state_values, "STATE_BYTES", 1000)
    monkeypatch.setattr("iglens_tl.lenses.orders.frozen.STATE_BYTES", 1000)
    np.testing.assert_allclose(ig_lens(toy, BATCH, path=path).values, whole.values, atol=1e-6)


@pytest.mark.parametrize("path", SHAPLEY_PATHS)
def test_sampled_games_are_near_the_exact_ones_and_carry_their_errors(toy_model, path):
    model = toy_model("llama", "auto", "float64")
    exact = ig_lens(model, IDS, path=path)
    sampled = ig_lens(model, IDS, path=path, n_permutations=40, seed=2)
    errors = sampled.statistics["standard_error"]
    assert (np.abs(sampled.values - exact.values) <= 4 * errors + 1e-12).all()
    assert errors.max() > 0 and not exact.statistics
    np.testing.assert_allclose(sampled.completeness_error, 0, atol=1e-12)
    assert sampled.provenance.options["n_permutations"] == 40
    assert "sampled with 40 permutations" in sampled.provenance.notes[0]
    assert "seed 2" in sampled.provenance.notes[0]
    again = ig_lens(model, IDS, path=path, n_permutations=40, seed=2)
    assert_close_to(again.values, sampled.values, dtype=torch.float32)
    assert "standard_error" in sampled.to_frame(tidy=True)
    if path == "shapley_skip":
        assert_identical(errors[:, 0], 0)


@pytest.mark.parametrize("path", SHAPLEY_PATHS)
def test_games_with_too_many_players_are_sampled_unless_exact_ones_are_asked_for(path):
    build = native_hooked if HAS_HOOKED else native_bridge
    model = build(normalization_type=None, n_layers=15, d_model=8, n_heads=1, attn_only=True)
    result = ig_lens(model, IDS[:3], path=path, value="logit")
    assert "sampled with 100 permutations" in result.provenance.notes[0]
    scale = max(1.0, np.abs(result.values).max())
    np.testing.assert_allclose(result.completeness_error / scale, 0, atol=1e-12)
    with pytest.raises(ValueError, match=r"2\^1[56] = .* coalitions; exact .* at most 14 players"):
        ig_lens(model, IDS[:3], path=path, n_permutations=0)


def test_the_path_of_sublayers_is_another_spelling_of_the_option(toy):
    by_path, by_option = ig_lens(toy, IDS, path="sublayers"), ig_lens(toy, IDS, by="sublayer")
    assert by_path.segments == by_option.segments == ("embed", *by_path.segments[1:])
    assert_close_to(by_path.values, by_option.values, dtype=torch.float32)
    assert by_path.provenance.options == by_option.provenance.options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "sideways"}, "unknown path 'sideways'; choose one of hidden_states"),
        ({"path": "reverse", "by": "sublayer"}, "'reverse' credits whole layers; leave out by='s"),
        ({"path": "sublayers", "layers": [1]}, "give layers or by='sublayer', not both"),
        ({"path": "shapley_skip", "layers": [1]}, "'shapley_skip'.* credits every layer by"),
        ({"path": "leave_one_out", "layers": [1]}, "'leave_one_out'.* credits every layer by"),
        ({"path": "straight", "layers": [1]}, "'straight'.* credits every layer by itself"),
        ({"estimator": "ps_ig", "layers": [1]}, "estimator='ps_ig' credits every layer by itself"),
        ({"path": "shapley_frozen", "estimator": "gradient"}, "has no estimator.*, only delta:"),
        ({"path": "shapley_skip", "estimator": "riemann"}, "has no estimator.*, only delta:"),
        ({"path": "leave_one_out", "estimator": "gradient"}, "has no estimator.*, only delta:"),
        ({"path": "straight", "estimator": "delta"}, "only ps_ig, idgi, gradient:"),
        ({"path": "reverse", "estimator": "ps_ig"}, "only delta, riemann, gradient:"),
        ({"estimator": "idgi"}, "'hidden_states' has no estimator='idgi'"),
        ({"path": "shapley_frozen", "n_steps": 4}, "delta estimator is exact and has no steps"),
        ({"path": "reverse", "estimator": "magic"}, "unknown estimator 'magic'"),
        ({"path": "reverse", "n_permutations": 8}, "'reverse' samples no permutations"),
        ({"n_permutations": 8}, "'hidden_states' samples no permutations.*shapley_frozen"),
        ({"path": "shapley_frozen", "n_permutations": 3}, "must be even and at least 4, got 3"),
    ],
)
def test_options_that_an_order_does_not_have_are_refused(toy, options, message):
    with pytest.raises(ValueError, match=message):
        ig_lens(toy, IDS, **options)
