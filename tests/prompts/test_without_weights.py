"""Tokenising without the model's weights, as processes do that do not run it."""

from __future__ import annotations

import pickle

import pytest

from iglens_tl.models import adapt
from iglens_tl.prompts import WithoutWeights, encode_prompt, token_string

CHAT = [{"role": "user", "content": "What is the capital of Vietnam?"}]


@pytest.mark.parametrize("prepend_bos", [None, True, False])
@pytest.mark.parametrize("prompt", ["The river froze.", " \n", CHAT, [5, 6, 7]])
def test_the_tokens_are_those_of_the_model(demo, prompt, prepend_bos):
    adapter = adapt(demo)
    received = pickle.loads(pickle.dumps(WithoutWeights.of(adapter)))
    expected = encode_prompt(adapter, prompt, prepend_bos=prepend_bos)
    found = encode_prompt(received, prompt, prepend_bos=prepend_bos)
    assert found == expected
    strings = [token_string(received, token) for token in found.ids]
    assert strings == [token_string(adapter, token) for token in found.ids]
    for limit in ("n_ctx", "d_vocab", "name"):
        assert getattr(received, limit) == getattr(adapter, limit)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_bridge_tokenises_without_weights_too(toy_model, family):
    adapter = adapt(toy_model(family, "bridge"))
    received = pickle.loads(pickle.dumps(WithoutWeights.of(adapter)))
    for prepend_bos in (None, True, False):
        expected = encode_prompt(adapter, "w1 w2 w3", prepend_bos=prepend_bos)
        assert encode_prompt(received, "w1 w2 w3", prepend_bos=prepend_bos) == expected


def test_what_the_vocabulary_lacks_is_said_as_by_the_model(demo):
    received = WithoutWeights.of(adapt(demo))
    with pytest.raises(ValueError, match=r"token id 9999 is not in the vocabulary of demo \(0 to"):
        encode_prompt(received, [1, 9999])
