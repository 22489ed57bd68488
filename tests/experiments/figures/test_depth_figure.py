"""How the residual stream's depth is used: every number against plain hooks or by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.figures import depth
from experiments.figures.depth_runs import (
    contributions,
    depth_score,
    later_effects,
    predictions,
    skip_effects,
)
from experiments.figures.differences import paired_difference, unpaired_difference
from experiments.figures.setting import FIRST_HOP_GIVEN, ONE_HOP, TWO_HOPS, Setting
from iglens_tl import ig_lens, layer_effects
from iglens_tl.cli.validate import PromptLine
from iglens_tl.models import adapt, capture
from iglens_tl.prompts import build_requests


@pytest.fixture(scope="module")
def toy_setting(toy_model):
    """Return a prompt without an answer for a model that answers anything, in float64."""
    adapter = adapt(toy_model("llama", dtype="float64"))
    return Setting(adapter=adapter, lines=(PromptLine("line 1", "one two three four", None),))


@pytest.fixture(scope="module")
def tables(toy_setting):
    return depth.measure(toy_setting)


@pytest.mark.parametrize("family", ["llama", "gpt_neox_parallel"])
def test_contributions_are_those_of_the_activations(toy_model, family):
    adapter = adapt(toy_model(family))
    ids = build_requests(adapter, "one two three four")[0].ids
    table = contributions(adapter, ids).set_index(["layer", "part", "position"])
    sites = [adapter.pre_site(1), adapter.attn_site(1), adapter.mlp_site(1)]
    kept = capture(adapter, torch.tensor([ids]), dict.fromkeys(sites, torch.clone))
    states = [kept[site].view(len(ids), -1) for site in sites]
    assert set(table.index.get_level_values("position")) == set(range(1, len(ids)))
    for position in range(1, len(ids)):
        state, attention, mlp = (found[position] for found in states)
        seen_by_mlp = state if family == "gpt_neox_parallel" else state + attention
        for part, update, before in (
            ("attention", attention, state),
            ("MLP", mlp, seen_by_mlp),
            ("block", attention + mlp, state),
        ):
            found = table.loc[(1, part, position)]
            cosine = torch.nn.functional.cosine_similarity(update, before, dim=0)
            assert found["ratio"] == pytest.approx(float(update.norm() / before.norm()), rel=1e-4)
            assert found["cosine"] == pytest.approx(float(cosine), abs=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_skipping_changes_what_a_run_with_hooks_changes(toy_model, family):
    adapter = adapt(toy_model(family))
    ids = build_requests(adapter, "one two three four")[0].ids
    whole, future = skip_effects(adapter, ids, [None, 2])
    tokens = torch.tensor([ids])
    sites = [adapter.embed_site, *(adapter.post_site(i) for i in range(adapter.n_layers))]
    kept = capture(adapter, tokens, dict.fromkeys(sites, torch.clone))
    for effects, first, end in ((whole, 1, None), (future, 2, 2)):

        def skip(state, hook, end=end):
            return torch.cat(
                [state[:, :1], kept[sites[0]][:, 1:end], state[:, len(state[0, :end]) :]], dim=1
            )

        with adapter.model.hooks(fwd_hooks=[(adapter.post_site(0), skip)]):
            edited = capture(adapter, tokens, dict.fromkeys(sites, torch.clone))
            probs = adapter.model(tokens)[0].softmax(-1)
        own = kept[sites[2]] - kept[sites[1]]
        change = ((edited[sites[2]] - edited[sites[1]]) - own).norm(dim=-1) / own.norm(dim=-1)
        torch.testing.assert_close(
            effects.changes[0, 1], change[0, first:].double(), rtol=1e-3, atol=1e-4
        )
        moved = (probs - adapter.model(tokens)[0].softmax(-1)).norm(dim=-1)[first:]
        torch.testing.assert_close(effects.predictions[0], moved.double(), rtol=1e-3, atol=1e-5)


def test_skipped_blocks_write_nothing_and_earlier_ones_are_unchanged(toy):
    adapter = adapt(toy)
    ids = build_requests(adapter, "one two three four")[0].ids
    changes = skip_effects(adapter, ids)[0].changes
    for skipped in range(adapter.n_layers):
        assert changes[skipped, skipped].numpy() == pytest.approx(1, abs=1e-6)
        assert changes[skipped, :skipped].abs().sum() < 1e-4


def test_no_layer_effect_is_larger_than_the_change_of_the_whole_prediction(toy):
    adapter = adapt(toy)
    request = build_requests(adapter, "one two three four", generate=1)[0]
    moved = skip_effects(adapter, request.ids[:-1])[0].predictions[:, -1]
    effects = layer_effects(adapter, list(request.ids[:-1]), targets=[request.target_ids[0]])
    assert (abs(effects.values[0]) <= moved.numpy() + 1e-6).all()


def test_the_depth_score_is_the_mean_layer():
    changes = torch.tensor([[1.0, 0.5, 0.1], [0.0, 1.0, 0.4], [0.0, 0.0, 1.0]])
    effects = later_effects(changes)
    assert effects.tolist() == pytest.approx([0.3, 0.4, 0.0])
    assert depth_score(effects.double()) == pytest.approx(0.4 / 0.7)


def test_predictions_are_compared_with_the_models_in_the_papers_direction(toy):
    adapter = adapt(toy)
    ids = build_requests(adapter, "one two three four")[0].ids
    table = predictions(adapter, ids).set_index(["quantity", "layer", "position"])["value"]
    sites = [adapter.embed_site, *(adapter.post_site(i) for i in range(adapter.n_layers))]
    kept = capture(adapter, torch.tensor([ids]), dict.fromkeys(sites, torch.clone))
    probs = [adapter.readout.logits(kept[site][0]).double().softmax(-1).numpy() for site in sites]
    own = adapter.model(torch.tensor([ids]))[0].double().softmax(-1).detach().numpy()
    for layer, read_out in enumerate(probs, start=-1):
        for position in range(1, len(ids)):
            p, final = read_out[position], own[position]
            expected = (p * np.log(p / final)).sum()
            assert table["KL to the model", layer, position] == pytest.approx(expected, abs=1e-4)
            common = set(p.argsort()[-5:]) & set(final.argsort()[-5:])
            overlap = table["top-5 overlap", layer, position]
            assert overlap == pytest.approx(len(common) / 5, abs=1e-9)
    assert table.index.get_level_values("position").min() == 1


def test_every_quantity_is_summed_up_by_its_layer(toy_setting, tables):
    adapter = toy_setting.adapter
    ids = toy_setting.prompts.requests(adapter)[0].ids
    found = tables["depth_layers"].set_index(["quantity", "layer"])
    of_parts = contributions(adapter, ids)
    of_predictions = predictions(adapter, ids)
    effects = skip_effects(adapter, ids)[0].predictions.numpy()
    for layer in range(adapter.n_layers):
        of_layer = of_parts[of_parts["layer"] == layer].groupby("part")
        for what in ("ratio", "cosine"):
            for part, numbers in of_layer[what]:
                row = found.loc[(f"{what} of {part}", layer)]
                assert row["mean"] == pytest.approx(numbers.mean(), abs=1e-9)
                assert row["median"] == pytest.approx(numbers.median(), abs=1e-9)
                assert row["max"] == pytest.approx(numbers.max(), abs=1e-9)
        assert found.loc[("prediction, all tokens", layer), "mean"] == pytest.approx(
            effects[layer].mean(), abs=1e-9
        )
    for (quantity, layer), rows in of_predictions.groupby(["quantity", "layer"]):
        assert found.loc[(quantity, layer), "mean"] == pytest.approx(rows["value"].mean(), abs=1e-9)
        assert found.loc[(quantity, layer), "n"] == len(ids) - 1


def test_the_skip_matrix_has_the_skipped_block_first(toy_setting, tables):
    ids = toy_setting.prompts.requests(toy_setting.adapter)[0].ids
    changes = skip_effects(toy_setting.adapter, ids)[0].changes
    table = tables["depth_skips"]
    rows = table[table["scope"] == depth.ALL].set_index(["skipped", "layer"])
    n_layers = toy_setting.adapter.n_layers
    assert len(rows) == n_layers * (n_layers - 1) // 2
    for (skipped, layer), row in rows.iterrows():
        assert skipped < layer
        assert row["mean"] == pytest.approx(float(changes[skipped, layer].mean()), abs=1e-9)
        assert row["max"] == pytest.approx(float(changes[skipped, layer].max()), abs=1e-9)
    figure = depth.draw_skips(table)
    drawn = np.array(figure.data[0].z, dtype=float)
    assert drawn[0, 1] == pytest.approx(rows.loc[(0, 1), "mean"], abs=1e-9)
    assert np.isnan(drawn[1, 0])


def test_depth_scores_are_weighted_by_their_own_effects(toy_setting, tables):
    adapter = toy_setting.adapter
    ids = toy_setting.prompts.requests(adapter)[0].ids
    effects = skip_effects(adapter, ids)[0]
    credit = ig_lens(adapter, "one two three four", generate=1).values[:, 1:]
    expected = {
        ("effect on later layers", "mean"): later_effects(effects.changes.mean(-1)),
        ("effect on later layers", "max"): later_effects(effects.changes.amax(-1)),
        ("effect on the prediction", "mean"): effects.predictions.mean(-1),
        ("effect on the prediction", "max"): effects.predictions.amax(-1),
        ("credit", "mean"): torch.from_numpy(abs(credit).mean(0)),
        ("credit", "max"): torch.from_numpy(abs(credit).max(0)),
    }
    found = tables["depth_scores"].set_index(["score", "statistic"])["depth"]
    scores = {k: depth_score(v) for k, v in expected.items()}
    assert found.to_dict() == pytest.approx(scores, abs=1e-9)


def test_differences_of_depth_are_paired_where_the_questions_are_the_same():
    hard, given, easy = [3.0, 1.0, 5.0], [2.5, 0.5, 4.5], [2.0, 2.0]
    about = {"score": "credit", "statistic": "mean"}
    rows = [
        about | {"group": group, "depth": value}
        for group, values in ((ONE_HOP, easy), (TWO_HOPS, hard), (FIRST_HOP_GIVEN, given))
        for value in values
    ]
    table = depth.differences(pd.DataFrame(rows)).set_index("control")
    pairs = table.loc[FIRST_HOP_GIVEN]
    assert [pairs["mean"], pairs["low"], pairs["high"]] == pytest.approx([0.5, 0.5, 0.5])
    assert table.loc[ONE_HOP, "mean"] == pytest.approx(1.0)
    assert table.loc[ONE_HOP, "low"] < 0.5
    assert (pairs["n"], table.loc[ONE_HOP, "n_control"]) == (3, 2)


def test_intervals_of_differences_are_those_of_the_mean():
    rng = np.random.default_rng(0)
    left, right = rng.normal(1, 2, 400), rng.normal(0, 1, 300)
    apart = unpaired_difference(left, right)
    error = np.sqrt(left.var() / 400 + right.var() / 300)
    assert apart.mean == pytest.approx(left.mean() - right.mean(), abs=1e-9)
    assert (apart.high - apart.low) / 2 == pytest.approx(1.96 * error, rel=0.1)
    assert paired_difference(left, left - 1) == replace(
        paired_difference(left, left), mean=1.0, low=1.0, high=1.0
    )
    assert paired_difference(left[:300], right).low < paired_difference(left[:300], right).mean


def test_depth_is_drawn_with_what_its_axis_leaves_out(toy_setting, tables):
    layers = tables["depth_layers"].copy()
    is_first = (layers["quantity"] == "ratio of block") & (layers["layer"] == 0)
    layers.loc[is_first, ["mean", "median"]] = 42.0
    figure = depth.draw_use({**tables, "depth_layers": layers})
    assert any("block 42" in (note.text or "") for note in figure.layout.annotations)
    assert "42.00 in L0" in figure.layout.title.subtitle.text
    colors = {trace.name: trace.line.color or trace.marker.color for trace in figure.data}
    shown = {name: color for name, color in colors.items() if name}
    shown |= {trace.name: trace.marker.color for trace in figure.data if trace.type == "box"}
    assert len(set(shown.values())) == len(shown) == 10
    drawn = depth.depth(toy_setting)
    assert set(drawn.figures) == {"depth", "depth_skips"}
    assert set(drawn.tables) == set(tables)
