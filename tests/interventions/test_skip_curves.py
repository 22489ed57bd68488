"""Skip curves: identities, one run for each coalition as reference, and what is refused."""

from __future__ import annotations

import importlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from iglens_tl import ig_lens, logit_lens
from iglens_tl.interventions import layer_effects, skip_curves
from iglens_tl.models import adapt
from iglens_tl.results.curves import SkipCurves
from tests.support.cases import EVERY_MODEL, IDS
from tests.support.closeness import assert_close_to, assert_far_from
from tests.support.native import native_bridge


@pytest.fixture(scope="module")
def credits(toy):
    return ig_lens(toy, IDS)


def probability(model, ids, keep, position, token, first_token):
    """Run a text once, the outputs of skipped blocks replaced by their inputs."""
    adapter = adapt(model)
    first = 0 if first_token else 1
    hooks = []
    for layer, runs in enumerate(keep):
        if not runs:
            inputs = []

            def undo(state, hook, inputs=inputs):
                state = state.clone()
                state[:, first:] = inputs[0][:, first:]
                return state

            pre, post = f"blocks.{layer}.hook_resid_pre", adapter.post_site(layer)
            hooks.append((pre, lambda state, hook, to=inputs: to.append(state.clone())))
            hooks.append((post, undo))
    with torch.no_grad():
        logits = model.run_with_hooks(torch.tensor([ids]), fwd_hooks=hooks, return_type="logits")
    return float(logits[0, position].double().softmax(-1)[token])


def one_by_one(model, result, first_token):
    """Return deletion and insertion of every target, from a forward pass for each step."""
    layers = [label for label in result.segments if label != "embed"]
    columns = [result.segments.index(label) for label in layers]
    curves = []
    for target, changes in zip(result.targets, result.changes[:, columns], strict=True):
        order = sorted(range(len(layers)), key=lambda layer: (-changes[layer], layer))
        for skip in (True, False):
            curve = []
            for k in range(len(layers) + 1):
                keep = [(layer in order[:k]) != skip for layer in range(len(layers))]
                ids = result.texts[target.prompt].ids
                read = (target.position, target.token_id)
                curve.append(probability(model, ids, keep, *read, first_token))
            curves.append(curve)
    return np.array(curves).reshape(len(result.targets), 2, -1)


def assert_equal_to_single_passes(model, result, first_token):
    curves = skip_curves(model, result, first_token=first_token)
    expected = one_by_one(model, result, first_token)
    np.testing.assert_allclose(curves.deletion["ig_lens"], expected[:, 0], atol=2e-5)
    np.testing.assert_allclose(curves.insertion["ig_lens"], expected[:, 1], atol=2e-5)


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_curves_are_those_of_one_pass_for_each_step(toy_model, name, backend):
    model = toy_model(name, backend)
    assert_equal_to_single_passes(model, ig_lens(model, IDS[:6], targets=[17, 42]), False)


@pytest.mark.parametrize("first_token", [False, True])
def test_the_first_token_is_skipped_only_if_asked_for(first_token):
    model = native_bridge()
    result = ig_lens(model, [3, 5, 8, 13, 21])
    assert_equal_to_single_passes(model, result, first_token)
    assert result.targets[0].position == 0
    curves = skip_curves(model, result, value="logprob", first_token=first_token)
    assert (np.ptp(curves.deletion["ig_lens"][0]) > 0.1) == first_token


def test_curves_begin_and_end_with_the_whole_model_and_with_none_of_it(toy, credits):
    curves = skip_curves(toy, credits, first_token=True)
    nothing = logit_lens(toy, IDS).levels[:, 0]
    assert set(curves.deletion) == set(curves.insertion) == {"ig_lens", "oracle", "random"}
    for order, deletion in curves.deletion.items():
        insertion = curves.insertion[order]
        for whole in (deletion[:, 0], insertion[:, -1]):
            np.testing.assert_allclose(whole, credits.final, atol=1e-6)
        for none in (deletion[:, -1], insertion[:, 0]):
            np.testing.assert_allclose(none, nothing, atol=1e-6)


def test_running_the_lowest_layers_alone_is_the_logit_lens(toy, credits):
    falling = np.tile([0.0, 3.0, 2.0, 1.0], (len(credits.targets), 1))
    curves = skip_curves(toy, replace(credits, values=falling), first_token=True)
    levels = logit_lens(toy, IDS).levels
    np.testing.assert_allclose(curves.insertion["ig_lens"], levels, atol=1e-6)


def test_the_oracle_skips_first_what_alone_takes_most(toy, credits):
    single = layer_effects(toy, IDS, first_token=True)
    curves = skip_curves(toy, credits, first_token=True)
    largest = single.values.max(axis=1)
    falls = curves.deletion["oracle"][:, 0] - curves.deletion["oracle"][:, 1]
    np.testing.assert_allclose(falls, largest, atol=1e-6)
    given = skip_curves(toy, credits, single, first_token=True)
    np.testing.assert_allclose(given.deletion["oracle"], curves.deletion["oracle"], atol=1e-6)
    np.testing.assert_allclose(given.insertion["oracle"], curves.insertion["oracle"], atol=1e-6)


def test_random_orders_come_with_their_reverse_and_a_seed(toy, credits):
    curves = [skip_curves(toy, credits, seed=seed, n_random=2) for seed in (0, 0, 1)]
    np.testing.assert_allclose(curves[0].areas_of("random")["area_between"], 0, atol=1e-12)
    assert_close_to(curves[0].deletion["random"], curves[1].deletion["random"], dtype=torch.float32)
    assert_far_from(curves[0].deletion["random"], curves[2].deletion["random"])
    # Two opposite orders: reading deletion backwards is insertion.
    backwards = curves[0].insertion["random"][:, ::-1]
    np.testing.assert_allclose(curves[0].deletion["random"], backwards, atol=1e-12)


def test_targets_keep_their_order_among_several_texts(toy):
    prompts = [IDS, [1, *IDS[4:]], IDS[:5]]
    together = ig_lens(toy, prompts)
    order = np.random.default_rng(0).permutation(len(together.targets))
    mixed = replace(
        together,
        targets=tuple(together.targets[row] for row in order),
        values=together.values[order],
        levels=together.levels[order],
        baseline=together.baseline[order],
        final=together.final[order],
        ranks=None,
        top=None,
    )
    curves = skip_curves(toy, mixed)
    np.testing.assert_allclose(curves.deletion["ig_lens"][:, 0], mixed.final, atol=1e-6)
    in_order = skip_curves(toy, together)
    for name in curves.deletion:
        np.testing.assert_allclose(curves.deletion[name], in_order.deletion[name][order], atol=1e-6)
    alone = skip_curves(toy, ig_lens(toy, prompts[0]))
    rows = [row for row, target in enumerate(together.targets) if target.prompt == 0]
    np.testing.assert_allclose(
        alone.insertion["ig_lens"], in_order.insertion["ig_lens"][rows], atol=1e-6
    )


def test_states_are_read_a_few_at_a_time(toy, credits, monkeypatch):
    whole = skip_curves(toy, credits)
    # By this name the package has the function.
    module = importlib.import_module("iglens_tl.interventions.skip_curves")
    monkeypatch.setattr(module, "STATE_BYTES", 1)
    parts = skip_curves(toy, credits)
    for name in whole.deletion:
        np.testing.assert_allclose(whole.deletion[name], parts.deletion[name], atol=1e-6)
        np.testing.assert_allclose(whole.insertion[name], parts.insertion[name], atol=1e-6)


@pytest.mark.parametrize("value", ["logprob", "logit", "entropy", "kl_to_final"])
def test_curves_are_read_in_any_value_of_a_token(toy, credits, value):
    curves = skip_curves(toy, credits, value=value)
    expected = ig_lens(toy, IDS, value=value)
    assert curves.unit == expected.unit
    np.testing.assert_allclose(curves.deletion["ig_lens"][:, 0], expected.final, atol=1e-5)


def test_areas_of_a_small_case_are_those_found_by_hand(credits):
    deletion = np.array([[0.9, 0.5, 0.1, 0.0]])
    insertion = np.array([[0.0, 0.6, 0.6, 0.9]])
    straight = np.array([[0.9, 0.6, 0.3, 0.0]])
    curves = SkipCurves(
        unit="probability",
        targets=credits.targets[:1],
        deletion={"mine": deletion, "oracle": deletion / 2, "random": straight},
        insertion={"mine": insertion, "oracle": insertion, "random": straight[:, ::-1]},
    )
    areas = curves.areas().set_index("order")
    mine = areas.loc["mine"]
    assert mine["deletion_area"] == pytest.approx(1.5 / 4)
    assert mine["insertion_area"] == pytest.approx(2.1 / 4)
    assert mine["area_between"] == pytest.approx(0.6 / 4)
    assert mine["share_of_oracle"] == pytest.approx(0.6 / (2.1 - 0.75))
    assert mine["comprehensiveness"] == pytest.approx((0.4 + 0.8 + 0.9) / 3)
    assert mine["sufficiency"] == pytest.approx((0.3 + 0.3 + 0.0) / 3)
    assert areas.loc["random", "area_between"] == pytest.approx(0)
    frame = curves.to_frame()
    assert len(frame) == 3 * 4
    assert frame.loc[frame["order"] == "mine", "layers"].tolist() == [0, 1, 2, 3]
    assert frame.loc[frame["order"] == "mine", "deletion"].tolist() == deletion[0].tolist()
    assert set(frame["unit"]) == {"probability"}


def test_no_share_is_given_of_an_oracle_that_gains_nothing(credits):
    flat = {name: np.full((1, 4), 0.5) for name in ("mine", "oracle", "random")}
    curves = SkipCurves("probability", credits.targets[:1], flat, flat)
    assert np.isnan(curves.areas_of("mine")["share_of_oracle"]).all()


def test_several_credits_share_one_call(toy, credits):
    reverse = ig_lens(toy, IDS, path="reverse")
    both = skip_curves(toy, {"forward": credits, "reverse": reverse})
    assert list(both.deletion) == ["forward", "reverse", "oracle", "random"]
    alone = skip_curves(toy, reverse)
    np.testing.assert_allclose(both.deletion["reverse"], alone.deletion["ig_lens"], atol=1e-6)


def test_no_hook_stays_behind(toy, credits):
    skip_curves(toy, credits)
    assert not any(point.fwd_hooks for point in toy.hook_dict.values())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_random": 3}, ValueError, "n_random must be even and at least 2, got 3"),
        ({"n_random": 0}, ValueError, "n_random must be even and at least 2, got 0"),
        ({"n_random": 2.0}, TypeError, "n_random must be an integer, got float"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"seed": "a"}, TypeError, "seed must be an integer, got str"),
        ({"value": "odds"}, ValueError, "unknown value 'odds'"),
        ({"value": "sequence_logprob"}, ValueError, "sequence_logprob adds up a continuation"),
    ],
)
def test_bad_options_are_named(toy, credits, options, error, message):
    with pytest.raises(error, match=message):
        skip_curves(toy, credits, **options)


def test_other_parts_than_whole_layers_are_refused(toy, credits):
    sublayers = ig_lens(toy, IDS, by="sublayer")
    with pytest.raises(ValueError, match=r"'ig_lens' has the segments L0.attn, L0.mlp.*by_layer"):
        skip_curves(toy, sublayers)
    some = ig_lens(toy, IDS, layers=[1])
    with pytest.raises(ValueError, match=r"has the segments L1, L2, but whole layers are skipped"):
        skip_curves(toy, some)
    with pytest.raises(ValueError, match="effects has the segments L0.attn"):
        skip_curves(toy, credits, sublayers)
    summed = skip_curves(toy, sublayers.by_layer())
    expected = skip_curves(toy, credits)
    np.testing.assert_allclose(summed.deletion["ig_lens"], expected.deletion["ig_lens"], atol=1e-6)


def test_levels_that_begin_after_the_first_layer_say_nothing_of_it(toy):
    levels = logit_lens(toy, IDS)
    assert levels.segments[0] == "embed"
    skip_curves(toy, levels)
    without = replace(
        levels,
        segments=levels.segments[1:],
        values=levels.values[:, 1:],
        levels=levels.levels[:, 1:],
        baseline=levels.levels[:, 1],
        ranks=None,
        top=None,
        statistics={},
    )
    with pytest.raises(ValueError, match="begins with the level after L0, which says nothing of"):
        skip_curves(toy, without)


def test_targets_that_are_no_tokens_of_the_model_are_refused(toy, credits):
    sums = ig_lens(toy, IDS[:4], answer=IDS[4:7], value="sequence_logprob")
    with pytest.raises(ValueError, match="is no single token of .*: give the model that"):
        skip_curves(toy, sums)
    unknown = replace(credits, targets=(replace(credits.targets[0], token_id=5000),) * 9)
    with pytest.raises(ValueError, match="is no single token of"):
        skip_curves(toy, unknown)


def test_credits_need_one_set_of_targets_and_names_of_their_own(toy, credits):
    other = ig_lens(toy, IDS, targets=[17, 42])
    with pytest.raises(
        ValueError, match="'b' has 9 targets, but credits 'c' has 2; measure both with"
    ):
        skip_curves(toy, {"b": credits, "c": other})
    with pytest.raises(ValueError, match="but effects has 2"):
        skip_curves(toy, credits, other)
    with pytest.raises(ValueError, match="credits may not be called 'oracle'"):
        skip_curves(toy, {"oracle": credits})
    with pytest.raises(ValueError, match="credits is empty"):
        skip_curves(toy, {})
    for wrong in (3, [credits], {"a": 1}):
        with pytest.raises(TypeError, match="credits must"):
            skip_curves(toy, wrong)


def test_the_figure_shows_both_curves_of_every_order(toy, credits):
    curves = skip_curves(toy, credits)
    figure = curves.figure()
    assert len(figure.data) == 2 * 3
    by_name = {(line.legendgroup, line.xaxis): line for line in figure.data}
    np.testing.assert_allclose(
        by_name["ig_lens", "x"].y, curves.deletion["ig_lens"].mean(0), atol=1e-12
    )
    np.testing.assert_allclose(
        by_name["oracle", "x2"].y, curves.insertion["oracle"].mean(0), atol=1e-12
    )
