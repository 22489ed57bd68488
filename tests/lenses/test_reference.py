"""The public reference's numbers, recomputed here from plain Hugging Face states."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from iglens_tl import ig_lens, reference_ig_lens
from tests.conftest import STORIES
from tests.support.cases import IDS


def reference_credits(hf_model, ids, layers, estimator, n_steps, baseline):
    """Follow METHODS of the paper's code: `hidden_states`, whose last one is already normed."""
    with torch.no_grad():
        states = hf_model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    states = [states[index][0] for index in layers]
    start = states[0].mean(0) if baseline == "mean" else torch.zeros_like(states[0][0])
    credits = []
    for position, token in enumerate(ids[1:]):
        path = [start, *(state[position] for state in states)]

        def prob(points, token=token):
            return hf_model.lm_head(hf_model.model.norm(points)).softmax(-1)[..., token]

        row = []
        for a, b in pairwise(path):
            if estimator == "delta":
                row.append((prob(b) - prob(a)).item())
                continue
            alphas = (torch.arange(n_steps)[:, None] + 0.5) / n_steps
            points = (a + alphas * (b - a)).detach().requires_grad_()
            (gradient,) = torch.autograd.grad(prob(points).sum(), points)
            row.append((gradient.mean(0) @ (b - a)).item())
        credits.append(row)
    return np.array(credits)


@pytest.mark.parametrize("baseline", ["mean", "zero"])
@pytest.mark.parametrize("estimator", ["delta", "riemann"])
@pytest.mark.parametrize("layers", [None, [1]])
@pytest.mark.filterwarnings("ignore::iglens_tl.lenses.estimators.CompletenessWarning")
def test_the_references_numbers_are_reproduced(toy_model, toy_folder, estimator, layers, baseline):
    hf_model = AutoModelForCausalLM.from_pretrained(toy_folder("llama"))
    indices = [1, 2, 3] if layers is None else [2, 3]
    expected = reference_credits(hf_model, IDS, indices, estimator, 8, baseline)
    result = reference_ig_lens(
        toy_model("llama"),
        IDS,
        layers=layers,
        baseline=baseline,
        estimator=estimator,
        n_steps=None if estimator == "delta" else 8,
    )
    assert result.segments == tuple(f"L{index - 1}" for index in indices)
    np.testing.assert_allclose(result.values, expected, atol=1e-5)
    assert "final norm is applied a second time" in result.provenance.notes[0]


def test_the_reference_states_another_probability_than_the_model(stories):
    prompt = "Once upon a time, there was a little girl named"
    reference = reference_ig_lens(stories, prompt, generate=1)
    assert reference.final[0] == pytest.approx(0.82, abs=5e-3)
    hf_model = AutoModelForCausalLM.from_pretrained(STORIES)
    with torch.no_grad():
        probs = hf_model(torch.tensor([reference.texts[0].ids[:-1]])).logits[0, -1].softmax(-1)
    result = ig_lens(stories, prompt, generate=12)
    assert result.targets[0].token == " Lily"
    assert result.final[0] == pytest.approx(probs.max().item(), abs=1e-6)
    assert result.final[0] == pytest.approx(0.9263, abs=5e-5)
    total = result.baseline[0] + result.values[0].sum()
    assert total == pytest.approx(probs.max().item(), abs=1e-6)
