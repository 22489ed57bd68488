"""The experiment that credits heads and ablates them, on a few prompts."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.components.ablation import Ablation, mean_of_others, top_heads
from experiments.components.credits import CREDIT, head_credits
from experiments.components.outcomes import FAMILIES
from experiments.components.prompts import (
    IOI_ROLES,
    answered_cases,
    fact_cases,
    ioi_cases,
)
from experiments.components.statistics import rank_correlation_of_means
from experiments.components.tables import ablation_table, role_table
from experiments.demo_model.facts import all_facts
from experiments.demo_model.families.fact_recall import is_phrasing_held_out, phrase_fact
from experiments.demo_model.families.ioi import NAME
from experiments.demo_model.split import is_held_out
from iglens_tl import LogitDifference, components
from iglens_tl.models import adapt


@pytest.fixture(scope="module")
def adapter(demo):
    return adapt(demo)


@pytest.fixture(scope="module")
def cases(adapter):
    return answered_cases(adapter, ioi_cases(adapter, Random(1), 4), 2)[0]


@pytest.fixture(scope="module")
def credits(adapter, cases):
    return head_credits(adapter, cases, IOI_ROLES)


def test_the_roles_of_a_prompt_name_the_tokens_that_play_them(adapter, cases):
    for case in cases:
        tokens = {role: [] for role in IOI_ROLES}
        for token, role in zip(case.ids, case.roles, strict=True):
            tokens[role].append(adapter.tokenizer.decode([token]).strip())
        assert tokens["indirect object"] == [case.answer.strip()]
        assert tokens["subject, first time"] == [case.other.strip()]
        assert tokens["subject, second time"] == [case.other.strip()]
        assert tokens["BOS"] == ["<bos>"]
        assert tokens["last token"] == [case.prompt.split()[-1]]


def test_a_fact_goes_on_after_its_subject(adapter):
    drawn = fact_cases(adapter, Random(1), 5)
    assert len(drawn) == 5
    for case in drawn:
        assert case.roles.count("subject, last token") == 1
        assert case.roles[-1] == "last token"
        assert len(case.roles) == len(case.ids)
        assert case.answer_id != case.other_id


def test_only_cases_that_the_model_answers_right_are_kept(adapter, cases):
    wrong = replace(cases[0], answer_id=cases[0].other_id)
    found, asked = answered_cases(adapter, [wrong, *cases], 2)
    assert found == cases
    assert asked == 3


def test_credits_by_role_add_up_to_those_of_the_heads(credits):
    np.testing.assert_allclose(credits.by_role.sum(-1), credits.measures[CREDIT], atol=1e-9)


def test_credits_of_a_logit_difference_are_those_of_the_value_of_that_name(adapter, cases, credits):
    case = cases[0]
    value = LogitDifference(case.answer_id, case.other_id)
    own = components(
        adapter, list(case.ids), by="head", answer=[case.answer_id], value=value
    ).to_frame()
    heads = own.filter(regex=r"^L\d+\.H\d+$").to_numpy().reshape(adapter.n_layers, -1)
    np.testing.assert_allclose(credits.measures["credit of logit difference"][0], heads, atol=1e-3)


def test_ablating_no_head_leaves_the_models_probability(adapter, cases, credits):
    ablation = Ablation(adapter, cases)
    final = [
        components(adapter, list(case.ids), by="layer", answer=[case.answer_id]).final[0]
        for case in cases
    ]
    np.testing.assert_allclose(ablation.clean[:, 0], final, atol=1e-5)
    table = ablation_table(ablation, credits, numbers=(8,))
    assert np.isfinite(table.select_dtypes("number").to_numpy()).all()


@pytest.mark.parametrize("scope", ["last token", "all tokens"])
def test_a_zeroed_head_is_one_whose_output_a_hook_sets_to_zero(adapter, cases, scope):
    heads = torch.zeros(len(cases), adapter.n_layers, 6, dtype=torch.bool)
    heads[:, 5, 1] = True
    found = Ablation(adapter, cases).run(heads, kind="zero", scope=scope)

    def zero(z, hook):
        z = z.clone()
        z[:, -1 if scope == "last token" else slice(1, None), 1] = 0
        return z

    for row, case in enumerate(cases):
        with torch.no_grad():
            logits = adapter.model.run_with_hooks(
                torch.tensor([case.ids]), fwd_hooks=[("blocks.5.attn.hook_z", zero)]
            )
        probs = logits[0, -1].double().softmax(-1)
        np.testing.assert_allclose(found[row, 0], probs[case.answer_id].item(), atol=1e-5)


def test_the_mean_of_a_role_leaves_the_own_case_out():
    z = torch.randn(3, 4, 2, 5)
    roles = torch.tensor([[0, 1, 1, -1], [0, 1, 0, 1], [1, 0, -1, -1]])
    found = mean_of_others(z, roles)
    for case in range(3):
        for pos in range(4):
            others = [
                z[i, j]
                for i in range(3)
                for j in range(4)
                if i != case and roles[i, j] == roles[case, pos] >= 0
            ]
            expected = torch.stack(others).mean(0) if others else torch.zeros(2, 5)
            torch.testing.assert_close(found[case, pos], expected)


def test_a_role_of_one_case_only_has_no_mean():
    with pytest.raises(ValueError, match="one case only"):
        mean_of_others(torch.randn(2, 2, 1, 1), torch.tensor([[0, 1], [0, 0]]))


def test_every_case_ablates_its_own_largest_heads():
    scores = np.array([[[1.0, 5.0], [3.0, 2.0]], [[0.0, -1.0], [-2.0, -3.0]]])
    assert top_heads(scores, 2).tolist() == [
        [[False, True], [True, False]],
        [[True, True], [False, False]],
    ]


def test_rank_correlations_of_means_lie_in_their_interval():
    rng = np.random.default_rng(0)
    left = rng.normal(size=(30, 1)) * 0.1 + np.arange(12)
    right = left + rng.normal(size=(30, 12)) * 4
    found, low, high = rank_correlation_of_means(left, right)
    means = pd.DataFrame({"left": left.mean(0), "right": right.mean(0)}).rank().corr()
    assert found == pytest.approx(means.loc["left", "right"], abs=1e-9)
    assert low <= found <= high <= 1


def test_the_table_of_roles_names_the_heads_it_is_asked_for(credits):
    table = role_table(credits, IOI_ROLES, ["L5.H1"])
    assert list(table.index) == ["all heads", "L5.H1"]
    assert table.loc["L5.H1", "BOS"] == pytest.approx(credits.by_role[:, 5, 1, 0].mean(), abs=1e-9)


def test_the_pictured_prompts_are_held_out_from_training():
    ioi_example, fact_example = (family.example for family in FAMILIES)
    template = "When {first} and {second} went to the {place}, {s} gave a {object} to"
    assert ioi_example[0].startswith("When Adam and Daisy went to the")
    assert is_held_out(NAME, template, "Adam", "Daisy")
    fact = next(f for f in all_facts() if (f.relation, f.subject) == ("capital", "Greece"))
    phrased = phrase_fact(fact, "statement", 5)
    assert (phrased.prompt, phrased.answer) == fact_example
    assert is_phrasing_held_out(fact, "statement", 5)
