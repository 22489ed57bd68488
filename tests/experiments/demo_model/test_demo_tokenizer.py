import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from experiments.demo_model.architecture import MAX_LENGTH
from experiments.demo_model.evaluate import SHIPPED_MODEL
from experiments.demo_model.facts import all_facts
from experiments.demo_model.markup import ASSISTANT, EOS, SPECIAL_TOKENS, chat_prompt
from experiments.demo_model.tokenizer import VOCAB_SIZE, build_tokenizer

TOKENIZER = AutoTokenizer.from_pretrained(SHIPPED_MODEL)
CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is the capital of Vietnam?"},
    {"role": "assistant", "content": "The capital of Vietnam is Hanoi."},
    {"role": "user", "content": "What is the capital of Laos?"},
]


@given(st.text().filter(lambda text: not any(token in text for token in SPECIAL_TOKENS)))
@settings(deadline=None)
def test_any_text_comes_back(text):
    tokens = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert TOKENIZER.decode(tokens) == text


def test_it_is_built_from_the_seed_alone():
    built = build_tokenizer(seed=0, max_length=MAX_LENGTH)
    assert len(built) == VOCAB_SIZE
    assert built.backend_tokenizer.to_str() == TOKENIZER.backend_tokenizer.to_str()


def test_plain_text_gets_one_bos_in_front():
    tokens = TOKENIZER("The capital of Vietnam is")["input_ids"]
    assert tokens[0] == TOKENIZER.bos_token_id
    assert tokens.count(TOKENIZER.bos_token_id) == 1


@pytest.mark.parametrize("word", [" Hanoi", " Vietnam", " dong", " Mary", " 7", " 17", "43", "07"])
def test_an_answer_word_is_one_token(word):
    assert len(TOKENIZER.tokenize(word)) == 1


def test_most_one_word_answers_are_one_token():
    words = {fact.answer for fact in all_facts() if fact.answer.isalpha()}
    single = sum(len(TOKENIZER.tokenize(f" {word}")) == 1 for word in words)
    assert single == len(words)


def test_a_year_is_two_tokens():
    assert TOKENIZER.tokenize(" 1743") == ["Ġ17", "43"]


def test_the_chat_template_writes_one_bos_and_ends_assistant_turns():
    text = TOKENIZER.apply_chat_template(CONVERSATION, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<bos><|system|>Be brief.<|user|>What is the capital of Vietnam?"
        "<|assistant|>The capital of Vietnam is Hanoi.<eos>"
        "<|user|>What is the capital of Laos?<|assistant|>"
    )
    tokens = TOKENIZER.apply_chat_template(CONVERSATION, return_dict=False)
    assert tokens.count(TOKENIZER.bos_token_id) == 1
    assert tokens.count(TOKENIZER.eos_token_id) == 1


def test_the_generation_prompt_is_optional():
    text = TOKENIZER.apply_chat_template(CONVERSATION, tokenize=False)
    assert not text.endswith(ASSISTANT)


def test_the_chat_template_agrees_with_the_training_corpus():
    question = "What is the capital of Vietnam?"
    tokens = TOKENIZER.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
    )
    assert tokens == TOKENIZER(chat_prompt(question))["input_ids"]


def test_special_tokens_are_single_tokens():
    assert TOKENIZER.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(6))
    assert TOKENIZER.eos_token == EOS
