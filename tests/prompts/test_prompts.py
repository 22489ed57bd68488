"""From text to token ids and back, with real tokenizers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iglens_tl.models import adapt
from iglens_tl.prompts import build_requests, token_string
from iglens_tl.prompts.tokenization import encode_continuation, encode_rendered, stop_ids

STORY = "Once upon a time, there was a little girl named"


def test_a_text_is_tokenised_as_to_tokens_does(demo, stories):
    for model in (demo, stories):
        request = build_requests(adapt(model), STORY)[0]
        assert list(request.ids) == model.to_tokens(STORY)[0].tolist()


def test_a_chat_prompt_has_one_beginning_of_sequence_token(demo):
    request = build_requests(adapt(demo), [{"role": "user", "content": "What is it?"}])[0]
    expected = demo.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is it?"}], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    assert list(request.ids) == expected
    assert request.ids.count(demo.tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("answer", [" Lily", ".", "\n\nNo", " a b"])
def test_prompt_and_answer_are_tokenised_as_one_text(demo, stories, answer):
    for model in (demo, stories):
        request = build_requests(adapt(model), STORY, answer=answer)[0]
        assert list(request.ids) == model.to_tokens(STORY + answer)[0].tolist()


def test_the_strings_of_tokens_spell_the_text(demo, stories):
    for model in (demo, stories):
        adapter = adapt(model)
        ids = build_requests(adapter, STORY)[0].ids
        spelled = "".join(token_string(adapter, token) for token in ids[1:])
        assert spelled.strip() == STORY


def test_a_continuation_that_merges_with_the_prompt_is_refused(demo):
    with pytest.raises(ValueError, match="'land' merges with the end of the prompt"):
        build_requests(adapt(demo), "The name of the is", answer="land")


@given(prefix=st.text(min_size=1, max_size=20), continuation=st.text(min_size=1, max_size=20))
@settings(deadline=None, max_examples=150)
def test_a_continuation_completes_the_prefix_or_is_refused(demo, prefix, continuation):
    adapter = adapt(demo)
    try:
        added = encode_continuation(adapter, prefix, continuation)
    except ValueError as error:
        assert "merges with the end" in str(error)
        return
    whole = encode_rendered(adapter, prefix + continuation)
    assert encode_rendered(adapter, prefix) + added == whole
    assert added


def test_generation_ends_at_the_end_of_sequence_token(demo):
    adapter = adapt(demo)
    assert demo.tokenizer.eos_token_id in stop_ids(adapter)
