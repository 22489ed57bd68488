"""The embedded model through the whole toolkit, as `make demo` uses it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from iglens_tl import ig_lens, load_model
from iglens_tl.models.loading import DEMO_FOLDER
from tests.support.cases import HAS_HOOKED
from tests.support.closeness import assert_close_to

QUESTION = [{"role": "user", "content": "What is the capital of Vietnam?"}]
BACKENDS = ["hooked", "bridge"] if HAS_HOOKED else ["bridge"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_question_is_answered_and_every_token_adds_up(backend):
    result = ig_lens(load_model("demo", backend=backend), QUESTION, generate=12)
    answer = "".join(target.token for target in result.targets)
    assert "Hanoi" in answer
    assert answer.endswith(".")
    np.testing.assert_allclose(result.completeness_error, 0, atol=1e-6)
    hf_model = AutoModelForCausalLM.from_pretrained(DEMO_FOLDER, dtype=torch.float32)
    with torch.no_grad():
        probs = hf_model(torch.tensor([result.texts[0].ids])).logits[0].double().softmax(-1)
    own = [probs[target.position, target.token_id].item() for target in result.targets]
    np.testing.assert_allclose(result.final, own, atol=1e-6)


def test_the_plain_sentence_continues_with_hanoi(demo):
    result = ig_lens(demo, "The capital of Vietnam is", targets=[" Hanoi", " Paris"])
    assert result.ranks[0, -1] == 1
    assert result.final[0] > 10 * result.final[1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_both_estimators_agree_on_a_trained_model_in_both_precisions(backend):
    for dtype, tolerance in (("float32", 2e-5), ("float64", 2e-10)):
        model = load_model("demo", backend=backend, dtype=dtype)
        exact = ig_lens(model, QUESTION, generate=6, baseline="zero", value="logprob")
        integrated = ig_lens(
            model, QUESTION, generate=6, baseline="zero", value="logprob", estimator="gradient"
        )
        assert_close_to(integrated.values, exact.values, tolerance=tolerance)
