"""Values whose tokens are given as text."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from iglens_tl.models import adapt
from iglens_tl.prompts import bind_value
from iglens_tl.readout import (
    VALUES,
    Entropy,
    KLToFinal,
    LogitDifference,
    ProbabilityDifference,
    TokenSet,
    Value,
)
from tests.support.families import D_VOCAB
from tests.support.native import native_bridge


@pytest.fixture(scope="module")
def adapter(toy):
    """Return the adapter of a model with a tokenizer of words `w4 … w96`."""
    return adapt(toy)


def test_texts_and_ids_are_bound_to_the_same_ids(adapter):
    assert bind_value(adapter, LogitDifference("w5", 9)).tokens == (5, 9)
    assert bind_value(adapter, ProbabilityDifference(np.int64(5), " w9")).tokens == (5, 9)
    assert bind_value(adapter, TokenSet(["w30", 5, "w9"])).tokens == (30, 5, 9)
    assert bind_value(adapter, TokenSet(f"w{i}" for i in (7, 8))).tokens == (7, 8)
    assert bind_value(adapter, LogitDifference(0, D_VOCAB - 1)).tokens == (0, D_VOCAB - 1)


def test_values_without_tokens_stay_as_they_are(adapter):
    for name, value in VALUES.items():
        assert bind_value(adapter, name) is value
    for value in (Entropy(), KLToFinal()):
        assert bind_value(adapter, value) is value


def test_a_users_value_may_name_tokens_of_its_own(adapter):
    @dataclass(frozen=True)
    class Own(Entropy):
        token: str | int = "w5"

        def with_token_ids(self, id_of):
            return replace(self, token=id_of(self.token))

    assert bind_value(adapter, Own()).token == 5


def test_real_tokens_are_bound_as_they_stand_inside_a_text(demo, stories):
    for model, texts in ((demo, (" girl", " capital", ".")), (stories, (" was", " the", "."))):
        adapter = adapt(model)
        for text in texts:
            (token,) = bind_value(adapter, TokenSet([text])).tokens
            assert model.tokenizer.decode([token]).strip() == text.strip()
            inside = model.tokenizer("it" + text, add_special_tokens=False)["input_ids"]
            assert inside[-1] == token


@pytest.mark.parametrize("token", [D_VOCAB, -1, 10**9])
@pytest.mark.parametrize(
    "value_of",
    [
        lambda token: LogitDifference(5, token),
        lambda token: ProbabilityDifference(token, 5),
        lambda token: TokenSet([5, token]),
    ],
)
def test_ids_outside_the_vocabulary_are_named(adapter, token, value_of):
    message = rf"value token id {token} is not in the vocabulary of .* \(0 to {D_VOCAB - 1}\)"
    with pytest.raises(ValueError, match=message):
        bind_value(adapter, value_of(token))


@pytest.mark.parametrize("text", ["w97", "Paris", "w 5x"])
def test_unknown_texts_are_named(adapter, text):
    with pytest.raises(ValueError, match=rf"the value names '{text}', not in the vocabulary of"):
        bind_value(adapter, LogitDifference("w5", text))


def test_the_unknown_token_itself_may_be_named(adapter):
    assert bind_value(adapter, TokenSet(["<unk>"])).tokens == (3,)


def test_a_text_of_several_tokens_is_taken_apart_in_the_message(adapter, demo):
    with pytest.raises(ValueError, match=r"'w5 w9', which is 2 tokens .*\['.*w5', '.*w9'\]; name"):
        bind_value(adapter, TokenSet(["w5 w9"]))
    with pytest.raises(ValueError, match="which is 10 tokens .* name single tokens, or give token"):
        bind_value(adapt(demo), LogitDifference(" xylophone quartz", " was"))


@pytest.mark.parametrize("text", ["", " "])
def test_nothing_is_no_token(adapter, text):
    with pytest.raises(ValueError, match="not in the vocabulary"):
        bind_value(adapter, TokenSet([text]))


@pytest.mark.parametrize(
    "value",
    [
        LogitDifference("w5", "w5"),
        LogitDifference("w5", 5),
        ProbabilityDifference(5, " w5"),
        TokenSet([9, "w5", "w9"]),
    ],
)
def test_one_token_under_two_names_is_named_twice(adapter, value):
    with pytest.raises(ValueError, match="names token . twice; give tokens that differ"):
        bind_value(adapter, value)


@pytest.mark.parametrize("token", [True, 2.5, None, [5]])
def test_other_things_are_no_tokens(adapter, token):
    with pytest.raises(TypeError, match="value must be text or integer token ids, got"):
        bind_value(adapter, LogitDifference(9, token))


def test_a_model_without_tokenizer_needs_ids():
    adapter = adapt(native_bridge(normalization_type="LN"))
    assert adapter.tokenizer is None
    assert bind_value(adapter, LogitDifference(5, 9)).tokens == (5, 9)
    for value in (LogitDifference("w5", 9), TokenSet(["w5"])):
        with pytest.raises(ValueError, match="has no tokenizer, so the value needs token ids"):
            bind_value(adapter, value)


def test_other_things_are_no_values(adapter):
    with pytest.raises(ValueError, match="unknown value 'logits'; choose one of prob, logprob"):
        bind_value(adapter, "logits")
    for thing in (3, None, Value, ["prob"]):
        with pytest.raises(TypeError, match="value must be a name or a Value, got"):
            bind_value(adapter, thing)
