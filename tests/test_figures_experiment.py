"""The figures of the paper and its neighbours, each from end to end on a few prompts."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
import torch

from experiments.figures import answer_map, completeness, costs, depth, heads, lenses, onsets
from experiments.figures import reference as reference_figure
from experiments.figures.cost_runs import METHODS, Size, measure
from experiments.figures.depth_runs import (
    contributions,
    depth_score,
    later_effects,
    overlap_of_top,
    skip_effects,
)
from experiments.figures.registry import FIGURES
from experiments.figures.setting import FIRST_HOP_GIVEN, GIVEN, Setting
from experiments.figures.show import main
from iglens_tl import direct_logit_attribution, layer_effects, logit_lens
from iglens_tl.cli.validate import PromptLine
from iglens_tl.models import adapt, capture
from iglens_tl.prompts import build_requests

LINES = (
    PromptLine(1, "The capital of Vietnam is", " Hanoi"),
    PromptLine(2, "The opposite of hot is", " cold"),
)


@pytest.fixture(scope="module")
def adapter(demo):
    return adapt(demo)


@pytest.fixture(scope="module")
def setting(adapter):
    return Setting(adapter=adapter, lines=LINES)


@pytest.fixture(scope="module")
def toy_setting(toy):
    """Return two prompts without answers for a model that answers anything."""
    lines = (PromptLine(1, "one two three four", None), PromptLine(2, "two five one", None))
    return Setting(adapter=adapt(toy), lines=lines)


def test_delta_is_complete_and_the_midpoint_rule_comes_close_with_its_steps(setting):
    table = completeness.measure(setting, steps=(4, 64))
    worst = table.groupby(["baseline", "estimator", "steps"], dropna=False)["error"].max()
    for baseline in completeness.BASELINES:
        assert worst[baseline, "delta"].max() < 1e-12
        assert worst[baseline, "gradient", 64] < 1e-4
    assert worst["mean", "riemann", 64] < worst["mean", "riemann", 4]
    assert "2 targets" in completeness.finding(table)
    assert len(completeness.draw(table).data) == 2 * 2 * len(completeness.ESTIMATORS)


def test_the_answer_map_holds_the_onsets_of_the_result(adapter):
    setting = Setting(adapter=adapter)
    assert setting.question == [{"role": "user", "content": "What is the capital of Vietnam?"}]
    drawn = answer_map.answer_map(setting)
    table = drawn.tables["answer_map"]
    assert "".join(table.drop_duplicates("position")["token"]) == "The capital of Vietnam is Hanoi."
    half = table["value"].abs().groupby(table["position"]).cumsum()
    total = table["value"].abs().groupby(table["position"]).transform("sum")
    expected = table[half >= total / 2].groupby("position")["segment"].first()
    assert table.groupby("position")["onset, mass"].first().equals(expected.rename("onset, mass"))
    assert len(drawn.figures["answer_map"].data) == 1 + len(answer_map.RULES)


def test_the_question_is_the_users_first_one(adapter, toy_setting):
    lines = (PromptLine(1, "A statement.", None), PromptLine(2, "And why?", None))
    assert Setting(adapter=adapter, lines=lines).question[0]["content"] == "And why?"
    assert toy_setting.question == "one two three four"


def test_levels_and_credits_are_those_of_the_same_layers(setting):
    drawn = lenses.lenses(setting)
    assert set(drawn.tables["lenses"]["lens"]) == set(lenses.LENSES)
    table = drawn.tables["level_and_credit"]
    levels = table.pivot(index="prompt", columns="layer", values="level")
    credits = table.pivot(index="prompt", columns="layer", values="credit")
    assert (levels.diff(axis=1) - credits).iloc[:, 1:].abs().max().max() < 1e-12
    assert set(drawn.figures) == {"lenses", "level_and_credit"}


def test_onsets_of_drawn_items_tell_hard_from_easy(adapter):
    setting = Setting(adapter=adapter, number=6)
    table = onsets.measure(setting)
    groups = set(table["group"])
    assert {"one hop", "two hops", FIRST_HOP_GIVEN, "ioi", "text"} <= groups
    assert table["layer"].between(-1, adapter.n_layers - 1).all()
    assert "layers" in onsets.finding(table)
    figure = onsets.draw(table)
    assert sum(trace.type == "scatter" for trace in figure.data) == 2 * 3


def test_onsets_of_given_prompts_are_one_group(toy_setting):
    table = onsets.measure(toy_setting)
    assert set(table["group"]) == {GIVEN}
    assert onsets.finding(table).startswith("mean onset by mass")
    assert len(onsets.draw(table).data) == 2


def test_the_reference_differs_from_the_models_own_probabilities(setting):
    table = reference_figure.measure(setting)
    requests = setting.prompts.requests(setting.adapter)
    logits = setting.adapter.model(torch.tensor([requests[0].ids]))[0].double()
    ids = torch.tensor(requests[0].ids[1:])
    expected = logits[:-1].softmax(-1)[torch.arange(len(ids)), ids].numpy()
    assert table.loc[table["prompt"] == 0, "p"].to_numpy() == pytest.approx(expected, abs=1e-5)
    assert table["difference"].abs().max() > 0.01
    assert "next tokens differ" in reference_figure.finding(table)
    reference_figure.draw(table)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_logit_shares_of_tokens_add_up_to_those_of_their_heads(toy_model, family):
    adapter = adapt(toy_model(family))
    shares = heads.logit_shares(adapter, "one two three four", generate=2).to_frame(tidy=True)
    of_heads = shares.assign(segment=shares["segment"].str.split("<").str[0])
    found = of_heads.groupby(["position", "segment"])["value"].sum()
    expected = direct_logit_attribution(adapter, "one two three four", generate=2, split="head")
    expected = expected.to_frame(tidy=True).set_index(["position", "segment"])["value"]
    assert (found - expected.loc[found.index]).abs().max() < 1e-5


def test_signs_differ_only_where_both_numbers_are_large_enough():
    table = pd.DataFrame(
        {"prompt": 0, "position": 3, "token_id": 5, "credit": [1.0, -1.0, -0.5, -0.001]}
    ).assign(logit=[1.0, 1.0, 0.001, 1.0])
    assert heads.disagree(table).tolist() == [False, True, False, False]


def test_heads_are_drawn_for_the_first_prompt_and_all(setting):
    drawn = heads.heads(setting)
    table = drawn.tables["heads"]
    assert (table["source"] <= table["position"]).all()
    assert set(drawn.figures) == {"heads", "heads_signs"}


def test_contributions_are_those_of_the_activations(toy):
    adapter = adapt(toy)
    ids = build_requests(adapter, "one two three four")[0].ids
    table = contributions(adapter, ids).set_index(["layer", "part", "position"])
    _, cache = adapter.model.run_with_cache(torch.tensor([ids]))
    state, attention = cache["blocks.1.hook_resid_pre"][0, 2], cache["blocks.1.hook_attn_out"][0, 2]
    assert table.loc[(1, "attention", 2), "ratio"] == pytest.approx(
        float(attention.norm() / state.norm()), rel=1e-4
    )
    middle, mlp = cache["blocks.1.hook_resid_mid"][0, 2], cache["blocks.1.hook_mlp_out"][0, 2]
    cosine = torch.nn.functional.cosine_similarity(mlp, middle, dim=0)
    assert table.loc[(1, "MLP", 2), "cosine"] == pytest.approx(float(cosine), abs=1e-4)


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


def test_the_overlap_of_the_last_state_is_whole(toy):
    result = logit_lens(toy, "one two three four", top_k=5)
    overlap = overlap_of_top(result)
    assert overlap[:, -1].tolist() == [1.0] * len(overlap)
    first = set(result.top.ids[0, 0]) & set(result.top.ids[0, -1])
    assert float(overlap[0, 0]) == pytest.approx(len(first) / 5)


def test_depth_is_summed_up_over_positions_and_drawn(toy_setting):
    tables = depth.measure(toy_setting)
    layers, skips = tables["depth_layers"], tables["depth_skips"]
    assert (layers["max"] >= layers["q90"] - 1e-12).all()
    assert (skips["skipped"] < skips["layer"]).all()
    assert set(tables["depth_scores"]["score"]) == set(depth.SCORES)
    drawn = depth.depth(toy_setting)
    assert set(drawn.figures) == {"depth", "depth_skips"}


def test_costs_are_drawn_for_every_axis():
    rows = [
        {"method": method, **vars(size), "seconds": 0.1, "memory_mb": 0.0}
        for method in METHODS
        for size in (costs.BASE, replace(costs.BASE, tokens=16))
    ]
    table = pd.DataFrame(rows)
    assert "4 targets" in costs.finding(table)
    assert len(costs.draw(table).data) == 2 * 3 * len(METHODS)


def test_a_cost_is_time_and_memory():
    found = measure("ig_lens, delta", Size(tokens=16, layers=2, vocabulary=4_096))
    assert found["seconds"] > 0
    assert found["memory_mb"] >= 0


def test_the_command_writes_data_and_a_page(tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("The capital of Vietnam is\t Hanoi\n")
    prompts = ["--prompts", str(tmp_path / "prompts.txt")]
    main(["reference", "--no-pictures", "--out", str(tmp_path), *prompts])
    assert "reference: " in capsys.readouterr().out
    assert len(pd.read_parquet(tmp_path / "reference.parquet")) == 6
    page = (tmp_path / "reference.html").read_text()
    assert 'src="http' not in page


def test_the_command_names_its_figures_and_refuses_others(capsys):
    main(["--list"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(FIGURES)
    with pytest.raises(SystemExit):
        main(["unknown"])
    assert "choose from" in capsys.readouterr().err
