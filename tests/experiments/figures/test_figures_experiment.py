"""The figures of the paper and its neighbours, each from end to end on a few prompts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM

from experiments.common.memory import extra_memory_mb
from experiments.figures import answer_map, completeness, costs, heads, lenses, onsets
from experiments.figures import reference as reference_figure
from experiments.figures import setting as setting_module
from experiments.figures.cost_runs import METHODS, Size, measure
from experiments.figures.setting import (
    FIRST_HOP_GIVEN,
    GIVEN,
    ONE_HOP,
    TWO_HOPS,
    Setting,
)
from experiments.figures.two_hop_pairs import draw_pairs
from iglens_tl import components, direct_logit_attribution, ig_lens, load_model
from iglens_tl.cli.validate import PromptLine
from iglens_tl.models import adapt
from iglens_tl.results.onset import onset_index
from tests.support.closeness import assert_close_to, assert_identical

LINES = (
    PromptLine("line 1", "The capital of Vietnam is", " Hanoi"),
    PromptLine("line 2", "The opposite of hot is", " cold"),
)


@pytest.fixture(scope="module")
def adapter(demo):
    return adapt(demo)


@pytest.fixture(scope="module")
def setting(adapter):
    return Setting(adapter=adapter, lines=LINES)


@pytest.fixture(scope="module")
def exact_setting():
    """Return the same in float64, for what is as small as errors are."""
    return Setting(adapter=adapt(load_model("demo", dtype="float64")), lines=LINES)


@pytest.fixture(scope="module")
def toy_setting(toy):
    """Return two prompts without answers for a model that answers anything."""
    lines = (
        PromptLine("line 1", "one two three four", None),
        PromptLine("line 2", "two five one", None),
    )
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


def test_the_prompts_of_the_experiment_are_answered(adapter):
    group = Setting(adapter=adapter).prompts
    finals = ig_lens(adapter, group.prompts, **group.choice, top_k=0).final
    assert len(finals) == 10
    assert (finals > 0.9).sum() == 9


@pytest.mark.filterwarnings("ignore::iglens_tl.lenses.estimators.CompletenessWarning")
@pytest.mark.parametrize("baseline", completeness.BASELINES)
def test_completeness_errors_are_those_of_the_results(exact_setting, baseline):
    setting = exact_setting
    table = completeness.measure(setting, steps=(4,))
    found = table[(table["baseline"] == baseline) & (table["estimator"] == "riemann")]
    group = setting.prompts
    options = {"baseline": baseline, "estimator": "riemann", "n_steps": 4}
    result = ig_lens(setting.adapter, group.prompts, **group.choice, **options)
    missed = result.values.sum(1) - (result.final - result.baseline)
    assert found["error"].to_numpy() == pytest.approx(abs(missed), abs=1e-9)
    assert found["error"].max() > 1e-5


def test_the_answer_map_holds_the_onsets_of_the_result(adapter):
    setting = Setting(adapter=adapter)
    assert setting.question == [{"role": "user", "content": "What is the capital of Vietnam?"}]
    drawn = answer_map.answer_map(setting)
    table = drawn.tables["answer_map"]
    assert "".join(table.drop_duplicates("position")["token"]) == "The capital of Vietnam is Hanoi."
    half = table["value"].abs().groupby(table["position"]).cumsum()
    total = table["value"].abs().groupby(table["position"]).transform("sum")
    expected = table[half >= total / 2].groupby("position")["segment"].first()
    assert_identical(table.groupby("position")["onset, mass"].first(), expected)
    figure = drawn.figures["answer_map"]
    assert figure.layout.coloraxis.colorbar.title.text == "probability credit"
    result = ig_lens(adapter, setting.question, generate=answer_map.ANSWER_LENGTH)
    for marks, rule in zip(figure.data[1:], answer_map.RULES, strict=True):
        onset = onset_index(result, rule=rule)
        assert list(marks.y) == onset.tolist()
        assert np.round(marks.x).tolist() == list(range(len(onset)))
        of_rule = table.groupby("position", sort=False)[f"onset, {rule}"].first()
        assert of_rule.tolist() == [result.segments[segment] for segment in onset]


def test_the_question_is_the_users_first_one(adapter, toy_setting):
    lines = (PromptLine("line 1", "A statement.", None), PromptLine("line 2", "And why?", None))
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


def test_the_level_and_credit_of_a_layer_are_told_apart():
    table = pd.DataFrame({"level": [0.95, 0.99, 0.5, 0.97], "credit": [0.4, 0.01, 0.0, -0.04]})
    table = table.assign(layer=[0, 1, 2, 3], token="a", segment="L0")
    subtitle = lenses.draw_level_and_credit(table).layout.title.subtitle.text
    assert "of the 3 of 4 layers" in subtitle
    assert "67% have a credit below 0.05" in subtitle


def test_a_lens_that_does_not_apply_is_named_and_the_others_keep_their_colours(
    setting, toy_setting
):
    whole, partial = (lenses.lenses(each).figures["lenses"] for each in (setting, toy_setting))
    assert "left out" not in whole.layout.title.subtitle.text
    assert "left out: tuned_lens (no tuned lens is known" in partial.layout.title.subtitle.text
    colors = [
        {line.name: line.line.color for line in figure.select_traces({"type": "scatter"})}
        for figure in (whole, partial)
    ]
    assert set(colors[0]) - set(colors[1]) == {"tuned_lens"}
    assert colors[1].items() <= colors[0].items()


def test_drawn_pairs_are_the_same_question_with_and_without_its_first_hop(adapter):
    pairs = draw_pairs(adapter, 20, seed=0)
    assert len({pair.bare for pair in pairs}) == 20
    for pair in pairs:
        first_hop, joint, question = pair.given.partition(", so ")
        assert joint
        assert len(first_hop.split()) > 2
        assert question[1:] == pair.bare[1:]
        assert pair.answer.strip() not in pair.given
    for form in ("bare", "given"):
        prompts = [getattr(pair, form) for pair in pairs]
        result = ig_lens(adapter, prompts, answer=[pair.answer for pair in pairs], top_k=0)
        assert len(result.targets) == 20
        assert (result.final > 0.1).all()


@pytest.fixture
def few_families(monkeypatch):
    """Draw from a few families, which takes less time."""
    monkeypatch.setattr(setting_module, "FAMILIES", ("facts", "two_hop", "greater_than", "ioi"))


@pytest.mark.usefixtures("few_families")
def test_items_follow_the_seed(adapter):
    drawn = [Setting(adapter=adapter, number=3, seed=seed).groups for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    for first, other in zip(drawn[0], drawn[2], strict=True):
        assert first.prompts != other.prompts


@pytest.mark.usefixtures("few_families")
def test_onsets_of_drawn_items_are_those_of_the_results(adapter):
    setting = Setting(adapter=adapter, number=6)
    table = onsets.measure(setting)
    groups = list(dict.fromkeys(table["group"]))
    assert groups == [ONE_HOP, TWO_HOPS, FIRST_HOP_GIVEN, "greater_than", "ioi"]
    for group in setting.groups:
        result = ig_lens(adapter, group.prompts, **group.choice, top_k=0)
        for rule in onsets.RULES:
            found = table[(table["group"] == group.name) & (table["rule"] == rule)]
            index = onset_index(result, rule=rule)
            assert found["layer"].tolist() == (index - 1).tolist()
            assert found["onset"].tolist() == [result.segments[i] for i in index]
    figure = onsets.draw(table)
    assert sum(trace.type == "scatter" for trace in figure.data) == 2 * 3
    assert figure.data[0].y[0] == "one hop (n = 6)"
    for trace in (trace for trace in figure.data if trace.type == "heatmap"):
        assert np.asarray(trace.z).sum(1) == pytest.approx(1)


def test_families_with_too_few_items_are_noted(adapter, monkeypatch):
    monkeypatch.setattr(setting_module, "FAMILIES", ("greater_than",))
    setting = Setting(adapter=adapter, number=12)
    assert [note.split(":")[0] for note in setting.notes] == ["greater_than"]
    assert {group.name: len(group.prompts) for group in setting.groups} == {
        TWO_HOPS: 12,
        FIRST_HOP_GIVEN: 12,
        "greater_than": 10,
    }


def test_hard_items_are_later_by_a_positive_number():
    layers = {ONE_HOP: [1, 1], TWO_HOPS: [3, 5], FIRST_HOP_GIVEN: [2, 4]}
    table = pd.DataFrame(
        [
            {"group": group, "rule": "mass", "layer": layer}
            for group, of_group in layers.items()
            for layer in of_group
        ]
    )
    said = onsets.finding(table)
    assert "the same 2 questions with the first hop given +1.00 [+1.00, +1.00]" in said
    assert "2 other questions of one hop +3.00" in said


def test_onsets_of_given_prompts_are_one_group(toy_setting):
    table = onsets.measure(toy_setting)
    assert set(table["group"]) == {GIVEN}
    assert onsets.finding(table).startswith("mean onset by mass")
    assert len(onsets.draw(table).data) == 2


def test_the_reference_applies_the_final_norm_a_second_time(toy_setting, toy_folder):
    table = reference_figure.measure(toy_setting)
    hf_model = AutoModelForCausalLM.from_pretrained(toy_folder("llama")).eval()
    for prompt, request in enumerate(toy_setting.prompts.requests(toy_setting.adapter)):
        ids = torch.tensor(request.ids)
        with torch.no_grad():
            normed = hf_model(ids[None], output_hidden_states=True).hidden_states[-1][0]
            twice = hf_model.lm_head(hf_model.model.norm(normed)).double().softmax(-1)
        expected = twice[torch.arange(len(ids) - 1), ids[1:]].numpy()
        found = table.loc[table["prompt"] == prompt, "reference_p"].to_numpy()
        assert found == pytest.approx(expected, abs=1e-6)


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
    expected = direct_logit_attribution(adapter, "one two three four", generate=2, by="head")
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
    group = setting.prompts
    results = {
        "credit": components(setting.adapter, group.prompts, by="head_source", **group.choice),
        "logit": heads.logit_shares(setting.adapter, group.prompts, **group.choice),
    }
    for what, result in results.items():
        expected = result.to_frame(tidy=True).set_index(["prompt", "segment"])["value"]
        rows = expected.loc[list(zip(table["prompt"], table["segment"], strict=True))]
        assert_close_to(table[what].to_numpy(), rows.to_numpy(), dtype=torch.float32)
    marks = next(trace for trace in drawn.figures["heads"].data if trace.type == "scatter")
    first = table[table["prompt"] == 0]
    differing = first[heads.disagree(first)]
    cells = {f"L{row.layer}.H{row.head} {row.source}" for row in differing.itertuples()}
    shown = set(drawn.figures["heads"].data[0].y)
    expected = {cell for cell in cells if cell.split()[0] in shown}
    assert {f"{y} {x}" for x, y in zip(marks.x, marks.y, strict=True)} == expected
    assert expected


def test_costs_are_drawn_for_every_axis():
    rows = [
        {"method": method, **vars(size), "seconds": 0.1, "memory_mb": 0.0}
        for method in METHODS
        for size in (costs.BASE, replace(costs.BASE, tokens=16))
    ]
    table = pd.DataFrame(rows)
    assert "4 targets" in costs.finding(table)
    figure = costs.draw(table)
    assert len(figure.data) == 2 * 3 * len(METHODS)
    looks = {trace.name: (trace.line.color, trace.line.dash) for trace in figure.data}
    assert len(set(looks.values())) == len(METHODS)


def test_a_cost_is_time_and_memory():
    found = measure("ig_lens, delta", Size(tokens=16, layers=2, vocabulary=4_096))
    assert found["seconds"] > 0
    assert 0 <= found["memory_mb"] < 1_000


def test_extra_memory_is_what_a_call_takes():
    assert extra_memory_mb(lambda: np.ones(2**23)) == pytest.approx(64, abs=8)
