"""Credit orders: their identities on every family, and each against a plain loop."""

from __future__ import annotations

from itertools import combinations, permutations
from math import factorial

import numpy as np
import pytest
import torch

from iglens_tl import StraightProjected, ig_lens, path_sensitivity, trace_prompt
from iglens_tl.lenses.ig import FROZEN_CHAINS, SHAPLEY_PATHS
from iglens_tl.models import adapt
from iglens_tl.readout import LogitDifference
from tests.support.cases import EVERY_MODEL, EVERY_MODEL_AND_DTYPE, HAS_HOOKED, IDS
from tests.support.closeness import assert_close_to, assert_far_from, assert_identical
from tests.support.native import native_bridge, native_hooked

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
OTHER_ORDERS = [*FROZEN_CHAINS, *SHAPLEY_PATHS]


def probs_of(adapter, states, tokens=IDS[1:]):
    """Return the targets' probabilities for last states at all positions but the last."""
    probs = adapter.readout.logits(states).double().softmax(-1)
    return probs.gather(1, torch.tensor(tokens)[:, None])[:, 0].numpy()


def states_of(model):
    """Return the mean embedding state, then the states after the embedding and every block."""
    adapter = adapt(model)
    with torch.no_grad():
        _, cache = model.run_with_cache(torch.tensor([IDS]))
    sites = [adapter.embed_site, *map(adapter.post_site, range(adapter.n_layers))]
    states = [cache[site][0].to(adapter.readout.dtype) for site in sites]
    baseline = states[0].mean(0).expand_as(states[0])
    return [state[:-1] for state in (baseline, *states)]


def probs_when_skipping(model, skipped):
    """Return the targets' probabilities when some blocks add nothing."""
    adapter = adapt(model)
    hooks = [
        (site, lambda update, hook: torch.zeros_like(update))
        for layer in skipped
        for site in adapter.update_sites(layer)
    ]
    with torch.no_grad():
        logits = model.run_with_hooks(torch.tensor([IDS]), fwd_hooks=hooks)[0, :-1]
    return logits.double().softmax(-1).gather(1, torch.tensor(IDS[1:])[:, None])[:, 0].numpy()


def shapley_by_loop(n_players, value):
    """Average the gains over every order of the players, as `[target, player]`."""
    gains = [0.0] * n_players
    for order in permutations(range(n_players)):
        for place, player in enumerate(order):
            gains[player] = gains[player] + value(order[: place + 1]) - value(order[:place])
    return np.stack(gains, axis=1) / factorial(n_players)


@pytest.mark.parametrize(("name", "backend", "dtype"), EVERY_MODEL_AND_DTYPE)
def test_orders_share_out_one_total_and_end_with_the_last_layers_skip_effect(
    toy_model, name, backend, dtype
):
    paths = ["hidden_states", *OTHER_ORDERS, "leave_one_out"]
    results = path_sensitivity(toy_model(name, backend, dtype), IDS, paths=paths).results
    usual = results["hidden_states"]
    # Hugging Face computes an RMS norm in float32 even so.
    norm = adapt(toy_model(name, backend, dtype)).readout.norm
    in_float32 = backend == "bridge" and norm is not None and not norm.centered
    atol = TOLERANCE["float32" if in_float32 else dtype]
    for path in OTHER_ORDERS:
        result = results[path]
        assert result.additive
        assert result.segments == usual.segments
        np.testing.assert_allclose(result.completeness_error, 0, atol=atol / 10)
        np.testing.assert_allclose(result.final, usual.final, atol=atol / 10)
        np.testing.assert_allclose(result.baseline, usual.baseline, atol=atol / 10)
        np.testing.assert_allclose(result.levels[:, -1], result.final, atol=atol / 10)
    skip_effects = results["leave_one_out"].values
    np.testing.assert_allclose(skip_effects[:, -1], usual.values[:, -1], atol=atol, rtol=0)


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_recomputed_orders_agree_with_zeroing_the_updates_of_skipped_layers(
    toy_model, name, backend
):
    model = toy_model(name, backend)
    by_coalition = {
        kept: probs_when_skipping(model, set(range(3)) - set(kept))
        for size in range(4)
        for kept in combinations(range(3), size)
    }
    # The game's prefixes are early exit, which the logit lens reads.
    prefixes = [by_coalition[tuple(range(n_layers))] for n_layers in range(4)]
    np.testing.assert_allclose(ig_lens(model, IDS).levels, np.stack(prefixes, 1), atol=1e-5)
    game = ig_lens(model, IDS, path="shapley_skip")
    expected = shapley_by_loop(3, lambda kept: by_coalition[tuple(sorted(kept))])
    np.testing.assert_allclose(game.values[:, 1:], expected, atol=1e-5)
    np.testing.assert_allclose(game.values[:, 0], by_coalition[()] - game.baseline, atol=1e-5)
    alone = ig_lens(model, IDS, path="leave_one_out")
    for layer, others in enumerate([(1, 2), (0, 2), (0, 1)]):
        expected = by_coalition[0, 1, 2] - by_coalition[others]
        np.testing.assert_allclose(alone.to_frame()[f"L{layer}"], expected, atol=1e-5)
    assert "do not sum to anything" in alone.provenance.notes[0]


def test_the_levels_of_leave_one_out_are_the_logit_lens(toy):
    alone, usual = (ig_lens(toy, IDS, path=path) for path in ("leave_one_out", "hidden_states"))
    assert not alone.additive and alone.kind == "effect"
    assert_identical(alone.changes, alone.values)
    assert_close_to(alone.levels, usual.levels, dtype=torch.float32)
    assert_identical(alone.ranks, usual.ranks)
    assert_close_to(alone.values[:, 0], usual.values[:, 0], dtype=torch.float32)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_frozen_shapley_agrees_with_a_loop_over_all_orders_of_updates(toy_model, dtype):
    model = toy_model("llama", "auto", dtype)
    adapter, states = adapt(model), states_of(model)

    def value(present):
        total = states[0].clone()
        for player in present:
            total = total + states[player + 1] - states[player]
        return probs_of(adapter, total)

    result = ig_lens(model, IDS, path="shapley_frozen")
    np.testing.assert_allclose(result.values, shapley_by_loop(4, value), atol=TOLERANCE[dtype])
    assert result.provenance.notes == (
        "exact Shapley values over all 2^4 = 16 coalitions of frozen updates",
    )


@pytest.mark.parametrize("value", ["entropy", "kl_to_final"])
def test_values_of_whole_distributions_are_shared_out_too(toy_model, value):
    model = toy_model("llama", "auto", "float64")
    adapter, states = adapt(model), states_of(model)
    of_model = adapter.readout.logits(states[-1]).log_softmax(-1)

    def plain(present):
        total = states[0].clone()
        for player in present:
            total = total + states[player + 1] - states[player]
        logprobs = adapter.readout.logits(total).log_softmax(-1)
        if value == "entropy":
            return -(logprobs.exp() * logprobs).sum(-1).numpy()
        return (of_model.exp() * (of_model - logprobs)).sum(-1).numpy()

    result = ig_lens(model, IDS, path="shapley_frozen", value=value)
    np.testing.assert_allclose(result.values, shapley_by_loop(4, plain), atol=1e-10)


@pytest.mark.parametrize("path", [*OTHER_ORDERS, "leave_one_out"])
def test_a_difference_of_logits_is_credited_the_difference_of_their_credits(toy_model, path):
    model = toy_model("llama", "auto", "float64")
    apart = ig_lens(model, IDS, targets=[9, 30], path=path, value="logit").values
    together = ig_lens(model, IDS, targets=[9], path=path, value=LogitDifference(9, 30)).values
    np.testing.assert_allclose(together[0], apart[0] - apart[1], atol=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_reverse_adds_the_last_layers_update_first(toy_model, dtype):
    model = toy_model("gpt2", "auto", dtype)
    adapter, states = adapt(model), states_of(model)
    total, credits = states[0], []
    for player in (3, 2, 1, 0):
        before, total = total, total + states[player + 1] - states[player]
        credits.append(probs_of(adapter, total) - probs_of(adapter, before))
    result = ig_lens(model, IDS, path="reverse")
    np.testing.assert_allclose(result.values, np.stack(credits[::-1], 1), atol=TOLERANCE[dtype])


@pytest.mark.parametrize("path", ["straight_projected", "straight_uniform"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_straight_lines_are_cut_where_they_say(toy_model, path, dtype):
    model = toy_model("gpt2", "auto", dtype)
    adapter, states = adapt(model), states_of(model)
    whole = states[-1] - states[0]
    levels = [probs_of(adapter, states[0])]
    for k, state in enumerate(states[1:], start=1):
        share = torch.full_like(whole[:, :1], k / 4)
        if path == "straight_projected":
            length = whole.norm(dim=1)
            share = (((state - states[0]) * (whole / length[:, None])).sum(1) / length)[:, None]
        levels.append(probs_of(adapter, (1 - share) * states[0] + share * states[-1]))
    expected = np.diff(np.stack(levels, 1), axis=1)
    result = ig_lens(model, IDS, path=path)
    np.testing.assert_allclose(result.values, expected, atol=TOLERANCE[dtype])
    np.testing.assert_allclose(result.levels, np.stack(levels[1:], 1), atol=TOLERANCE[dtype])


def test_a_line_without_length_gives_no_credit(toy_model):
    trace = trace_prompt(toy_model("llama", "auto", "float64"), IDS)
    last = trace.states[trace.adapter.post_site(2)][2]
    result = StraightProjected(baseline=last)(trace)
    np.testing.assert_allclose(result.values[2], 0, atol=1e-12)


@pytest.mark.parametrize("path", [*FROZEN_CHAINS, "sublayers"])
@pytest.mark.parametrize("estimator", ["gradient", "riemann"])
def test_chains_have_the_same_estimators_as_the_hidden_states(toy_model, path, estimator):
    model = toy_model("llama", "auto", "float64")
    exact = ig_lens(model, IDS, path=path)
    n_steps = 2000 if estimator == "riemann" else None
    found = ig_lens(model, IDS, path=path, estimator=estimator, n_steps=n_steps)
    atol = {"gradient": 1e-9, "riemann": 1e-4}[estimator]
    np.testing.assert_allclose(found.values, exact.values, atol=atol)
    np.testing.assert_allclose(found.levels, exact.levels, atol=1e-12)


@pytest.mark.parametrize("path", ["reverse", "straight_projected"])
def test_coarser_segments_are_credited_the_sums_of_finer_ones(toy_model, path):
    model = toy_model("llama", "auto", "float64")
    fine = ig_lens(model, IDS, path=path).to_frame()
    coarse = ig_lens(model, IDS, path=path, layers=[1]).to_frame()
    np.testing.assert_allclose(coarse["L1"], fine["L0"] + fine["L1"], atol=1e-12)
    np.testing.assert_allclose(coarse["L2"], fine["L2"], atol=1e-12)


def test_grouped_layers_are_one_player_of_the_frozen_game(toy_model):
    model = toy_model("llama", "auto", "float64")
    adapter, states = adapt(model), states_of(model)
    grouped = [states[0], states[1], states[3], states[4]]

    def value(present):
        total = states[0].clone()
        for player in present:
            total = total + grouped[player + 1] - grouped[player]
        return probs_of(adapter, total)

    result = ig_lens(model, IDS, path="shapley_frozen", layers=[1])
    assert result.segments == ("embed", "L1", "L2")
    np.testing.assert_allclose(result.values, shapley_by_loop(3, value), atol=1e-10)


def test_orders_over_frozen_updates_agree_where_the_value_is_linear():
    model = (native_hooked if HAS_HOOKED else native_bridge)(normalization_type=None)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Without norms the states would grow beyond what float32 adds up.
            parameter.mul_(1.0 if "embed" in name else 0.1)
    usual = ig_lens(model, IDS, value="logit")
    for path in ("reverse", "shapley_frozen"):
        result = ig_lens(model, IDS, value="logit", path=path)
        np.testing.assert_allclose(result.values, usual.values, atol=1e-5)
    uniform = ig_lens(model, IDS, value="logit", path="straight_uniform")
    share = (usual.final - usual.baseline)[:, None] / 4
    np.testing.assert_allclose(uniform.values, share.repeat(4, axis=1), atol=1e-5)
    # Leaving a layer out changes what later ones compute, also where the readout is linear.
    assert_far_from(ig_lens(model, IDS, value="logit", path="leave_one_out").values, usual.values)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_spherical_path_between_states_has_the_chords_integral(toy_model, name):
    # The final norm ignores a state's length (eps aside), so both are one curve behind it.
    model = toy_model(name, "auto", "float64")
    result = ig_lens(model, IDS)
    readout, states = adapt(model).readout, states_of(model)
    nodes, weights = np.polynomial.legendre.leggauss(64)
    for segment in (2, 3):
        start, end = (readout.norm.center(states[i][4]) for i in (segment, segment + 1))
        angle = torch.arccos((start @ end) / (start.norm() * end.norm()))
        total = 0.0
        for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
            at = torch.tensor(node, requires_grad=True)
            turn = (
                torch.sin((1 - at) * angle) * start / start.norm()
                + torch.sin(at * angle) * end / end.norm()
            )
            state = (start.norm() ** (1 - at) * end.norm() ** at) * turn / torch.sin(angle)
            prob = readout.logits(state[None])[0].softmax(-1)[IDS[5]]
            total += weight * torch.autograd.grad(prob, at)[0].item()
        assert total == pytest.approx(result.values[4, segment], abs=1e-5)
