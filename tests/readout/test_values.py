"""The values and their gradients."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iglens_tl.readout import (
    VALUES,
    Entropy,
    KLToFinal,
    LogitDifference,
    ProbabilityDifference,
    Targets,
    TokenSet,
    TokenValue,
    Value,
    resolve_value,
)
from iglens_tl.readout import value as value_module

NAMED = [LogitDifference(0, 1), ProbabilityDifference(1, 0), TokenSet([0, 2])]
EVERY_VALUE = [*VALUES.values(), *NAMED]
LOGITS = st.lists(st.floats(-30, 30), min_size=3, max_size=7)


@settings(deadline=None)
@given(logits=LOGITS, final=st.lists(st.floats(-9, 9), min_size=7, max_size=7))
def test_gradients_of_values_are_their_derivatives(logits, final):
    row = torch.tensor([logits], dtype=torch.float64, requires_grad=True)
    of_model = torch.tensor([final[: len(logits)]], dtype=torch.float64)
    targets = Targets(torch.tensor([1]), of_model)
    for value in EVERY_VALUE:
        (expected,) = torch.autograd.grad(value.evaluate(row, targets).sum(), row)
        found = value.gradient(row.detach(), targets)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-9)


@settings(deadline=None)
@given(logits=LOGITS)
def test_slopes_of_token_values_are_their_derivatives(logits):
    row = torch.tensor(logits, dtype=torch.float64)
    for value in EVERY_VALUE:
        if not isinstance(value, TokenValue):
            continue
        z = row[value.columns(torch.tensor(1))].clone().requires_grad_()
        normalizer = row.logsumexp(0).clone().requires_grad_()
        expected = torch.autograd.grad(
            value.of_tokens(z, normalizer), (z, normalizer), materialize_grads=True
        )
        found = value.slopes(z.detach(), normalizer.detach())
        for slope, derivative in zip(found, expected, strict=True):
            torch.testing.assert_close(slope, derivative)


@settings(deadline=None)
@given(logits=LOGITS)
def test_values_are_what_their_names_say(logits):
    row = torch.tensor([logits], dtype=torch.float64)
    probs, targets = row.softmax(1)[0], Targets(torch.tensor([1]), row.flip(1))
    expected = {
        "prob": probs[1],
        "logprob": probs[1].log(),
        "sequence_logprob": probs[1].log(),
        "logit": row[0, 1],
        "logit_difference": row[0, 0] - row[0, 1],
        "probability_difference": probs[1] - probs[0],
        "token_set": probs[0] + probs[2],
        "entropy": torch.distributions.Categorical(logits=row).entropy()[0],
        "kl_to_final": (probs.flip(0) * (probs.flip(0).log() - probs.log())).sum(),
    }
    for value in EVERY_VALUE:
        found = value.evaluate(row, targets)[0]
        torch.testing.assert_close(found, expected[value.name], atol=1e-9, rtol=1e-7)


def test_a_value_tells_the_tokens_that_it_names_as_they_were_given():
    bound = LogitDifference(" a", 7).with_token_ids(lambda token: {" a": 3}.get(token, token))
    assert (bound.a, bound.b) == (3, 7)
    assert bound.provenance() == {"value": "logit_difference", "value_tokens": [" a", 7]}
    again = bound.with_token_ids(lambda token: token)
    assert again.provenance() == bound.provenance()
    assert again == bound
    assert VALUES["prob"].provenance() == {"value": "prob"}


def test_the_value_in_the_module_docstring_is_right():
    doc = value_module.__doc__
    lines = doc[doc.index("    @dataclass") : doc.index("Values that need only")].splitlines()
    names = {"dataclass": dataclass, "Value": Value, "torch": torch}
    exec("\n".join(line.removeprefix("    ") for line in lines), names)
    value = names["LogOdds"]()
    logits = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    targets = Targets(torch.tensor([1, 0, 8, 3]))
    probs = logits.softmax(1)[range(4), targets.token_ids]
    torch.testing.assert_close(value.evaluate(logits, targets), torch.logit(probs))
    (expected,) = torch.autograd.grad(torch.logit(probs).sum(), logits)
    torch.testing.assert_close(value.gradient(logits, targets).detach(), expected)


def test_values_are_resolved_by_name_or_given():
    assert resolve_value("prob") is VALUES["prob"]
    assert resolve_value(VALUES["logit"]) is VALUES["logit"]
    with pytest.raises(ValueError, match="unknown value 'probability'; choose one of prob"):
        resolve_value("probability")
    with pytest.raises(TypeError, match="value must be a name or a Value, got 3"):
        resolve_value(3)


def test_tokens_are_bound_to_ids():
    ids = {"a": 4, "b": 7}.get
    assert LogitDifference("a", "b").with_token_ids(ids).tokens == (4, 7)
    assert TokenSet(["a", "b"]).with_token_ids(ids).tokens == (4, 7)
    assert Entropy().with_token_ids(ids) == Entropy()
    assert KLToFinal().with_token_ids(ids).needs_final


@pytest.mark.parametrize(
    "value", [LogitDifference("a", "a"), ProbabilityDifference("a", 4), TokenSet(["b", "a", "b"])]
)
def test_a_token_cannot_be_named_twice(value):
    with pytest.raises(ValueError, match="names token . twice; give tokens that differ"):
        value.with_token_ids(lambda token: {"a": 4, "b": 7}.get(token, token))


def test_a_token_set_is_a_list_of_tokens():
    with pytest.raises(ValueError, match="TokenSet is empty"):
        TokenSet([])
    with pytest.raises(TypeError, match="TokenSet takes a list of tokens, got ' Paris'"):
        TokenSet(" Paris")
