"""What is attributed, batches, options, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from iglens_tl import ig_lens, load_model
from iglens_tl.models import adapt
from tests.support.cases import EVERY_MODEL, IDS
from tests.support.closeness import assert_close_to, assert_far_from, assert_identical
from tests.support.families import D_VOCAB
from tests.support.results import assert_same_numbers

TEXT = "w17 w42 w5 w88 w23"
TEXT_IDS = (1, 17, 42, 5, 88, 23)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ ' w4 ' if m['role'] == 'user' else ' w6 ' }}{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' w6' }}{% endif %}"
)


@pytest.fixture
def chat_model(toy_folder):
    model = load_model(toy_folder("llama"))
    model.tokenizer.chat_template = CHAT_TEMPLATE
    return model


def test_every_next_token_of_a_text_is_attributed_by_default(toy):
    result = ig_lens(toy, TEXT)
    assert result.texts[0].ids == TEXT_IDS
    assert [target.token_id for target in result.targets] == list(TEXT_IDS[1:])
    assert [target.position for target in result.targets] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "prompt", [list(TEXT_IDS), TEXT_IDS, torch.tensor(TEXT_IDS), np.array(TEXT_IDS)]
)
def test_token_ids_mean_the_same_as_their_text(toy, prompt):
    assert_same_numbers(ig_lens(toy, prompt), ig_lens(toy, TEXT))


def test_the_beginning_of_sequence_token_can_be_left_out(toy):
    assert ig_lens(toy, TEXT, prepend_bos=False).texts[0].ids == TEXT_IDS[1:]


@pytest.mark.parametrize("answer", [" w9 w30", [9, 30], torch.tensor([9, 30])])
def test_the_tokens_of_an_answer_are_attributed(toy, answer):
    result = ig_lens(toy, TEXT, answer=answer)
    assert result.texts[0].ids == (*TEXT_IDS, 9, 30)
    assert [(t.position, t.token_id) for t in result.targets] == [(5, 9), (6, 30)]
    whole = ig_lens(toy, [*TEXT_IDS, 9, 30])
    np.testing.assert_allclose(result.values, whole.values[-2:], atol=1e-6)


def test_generated_tokens_are_the_models_greedy_ones(toy):
    ids = list(TEXT_IDS)
    for _ in range(4):
        with torch.no_grad():
            ids.append(int(toy(torch.tensor([ids]))[0, -1].argmax()))
    result = ig_lens(toy, TEXT, generate=4)
    assert result.texts[0].ids == tuple(ids)
    assert (result.ranks[:, -1] == 1).all()


def test_generation_stops_before_an_end_of_sequence_token(toy_folder):
    model = load_model(toy_folder("llama"))
    free = ig_lens(model, TEXT, generate=6)
    generated = [target.token_id for target in free.targets]
    stop = next(token for token in generated if token != generated[0])
    model.tokenizer.eos_token = f"w{stop}"
    stopped = ig_lens(model, TEXT, generate=6)
    assert [target.token_id for target in stopped.targets] == generated[: generated.index(stop)]
    model.tokenizer.eos_token = f"w{free.targets[0].token_id}"
    with pytest.raises(ValueError, match="nothing was generated"):
        ig_lens(model, TEXT, generate=6)


@pytest.mark.parametrize("targets", [[" w9", "\nw30"], [9, 30], [" w9", 30]])
def test_candidates_are_read_at_the_last_position(toy, targets):
    result = ig_lens(toy, TEXT, targets=targets)
    assert [(t.position, t.token_id) for t in result.targets] == [(5, 9), (5, 30)]
    for index, token in enumerate((9, 30)):
        assert_same_numbers(ig_lens(toy, TEXT, targets=token), _row(result, index))


def test_chat_messages_go_through_the_chat_template(chat_model):
    messages = [{"role": "user", "content": "w17 w42"}]
    result = ig_lens(chat_model, messages, answer=" w9")
    assert result.texts[0].ids == (1, 4, 17, 42, 6, 9)
    assert_same_numbers(result, ig_lens(chat_model, [1, 4, 17, 42, 6], answer=[9]))
    answered = [*messages, {"role": "assistant", "content": "w9"}]
    assert ig_lens(chat_model, answered).texts[0].ids == (1, 4, 17, 42, 6, 9)


@pytest.mark.parametrize(("name", "backend"), EVERY_MODEL)
def test_a_batch_gives_the_numbers_of_its_prompts_one_by_one(toy_model, name, backend):
    model = toy_model(name, backend)
    prompts = [IDS, IDS[:4], [7, 7, 7, 7], list(TEXT_IDS), IDS[:3]]
    batch = ig_lens(model, prompts, generate=2)
    for index, prompt in enumerate(prompts):
        alone = ig_lens(model, prompt, generate=2)
        assert_same_numbers(batch.for_prompt(index), alone)
        assert batch.for_prompt(index).texts == alone.texts


def test_a_batch_takes_shared_or_separate_answers_and_targets(toy):
    shared = ig_lens(toy, [TEXT, "w8 w9"], answer=" w9")
    assert [t.token_id for t in shared.targets] == [9, 9]
    separate = ig_lens(toy, [TEXT, "w8 w9"], answer=[" w9", [10, 11]])
    assert [(t.prompt, t.token_id) for t in separate.targets] == [(0, 9), (1, 10), (1, 11)]
    candidates = ig_lens(toy, [TEXT, "w8 w9"], targets=[[" w9", " w10"], [30]])
    assert [(t.prompt, t.token_id) for t in candidates.targets] == [(0, 9), (0, 10), (1, 30)]
    ids = ig_lens(toy, torch.tensor([[1, 5, 6], [1, 7, 8]]))
    assert [t.token_id for t in ids.targets] == [5, 6, 7, 8]


def test_many_equal_prompts_are_split_into_several_forward_passes(toy, monkeypatch):
    from iglens_tl import trace

    prompts = [[1, 5 + index, 6, 7] for index in range(9)]
    whole = ig_lens(toy, prompts)
    monkeypatch.setattr(trace, "TOKENS_PER_PASS", 8)
    assert_same_numbers(ig_lens(toy, prompts), whole)


def test_baselines_are_what_they_say(toy):
    adapter = adapt(toy)
    _, cache = toy.run_with_cache(torch.tensor([TEXT_IDS]))
    embedded = cache["blocks.0.hook_resid_pre"][0]
    counts = torch.arange(1, len(embedded) + 1)[:, None]
    expected = {
        "mean": embedded.mean(0).expand_as(embedded),
        "mean_causal": embedded.cumsum(0) / counts,
        "zero": torch.zeros_like(embedded),
        "embed": embedded,
    }
    for name, states in expected.items():
        probs = adapter.readout.logits(states[:-1]).softmax(-1)
        at_targets = probs.gather(1, torch.tensor(TEXT_IDS[1:])[:, None])[:, 0]
        result = ig_lens(toy, TEXT, baseline=name)
        np.testing.assert_allclose(result.baseline, at_targets, atol=1e-6)
        same = ig_lens(toy, TEXT, baseline=states[0])
        np.testing.assert_allclose(same.baseline[0], result.baseline[0], atol=1e-6)


def test_the_causal_mean_does_not_see_later_tokens(toy):
    short, long = (ig_lens(toy, ids, baseline="mean_causal") for ids in (IDS[:5], IDS))
    assert_close_to(short.baseline, long.baseline[:4], dtype=torch.float32)
    assert_far_from(ig_lens(toy, IDS[:5]).baseline, ig_lens(toy, IDS).baseline[:4])


def test_the_top_tokens_and_ranks_are_the_readouts(toy):
    result = ig_lens(toy, IDS, top_k=3)
    with torch.no_grad():
        probs = toy(torch.tensor([IDS]))[0, :-1].double().softmax(-1)
    top = probs.topk(3)
    assert_identical(result.top.ids[:, -1], top.indices)
    assert_close_to(result.top.probs[:, -1], top.values, dtype=torch.float32)
    at_targets = probs.gather(1, torch.tensor(IDS[1:])[:, None])
    assert_identical(result.ranks[:, -1], (probs > at_targets).sum(1) + 1)
    without = ig_lens(toy, IDS, top_k=0)
    assert without.top is None and without.ranks is None
    assert_close_to(without.values, result.values, dtype=torch.float32)


def test_a_model_without_tokenizer_takes_token_ids(toy_folder):
    model = load_model(toy_folder("llama"))
    model.tokenizer = None
    result = ig_lens(model, IDS)
    assert result.targets[0].token == "<17>"
    for options in ({}, {"answer": " w4"}, {"targets": [" w4"]}):
        with pytest.raises(ValueError, match="has no tokenizer"):
            ig_lens(model, TEXT if not options else IDS, **options)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("", {}, "the prompt is empty; give at least one token"),
        ([], {}, "the prompt is empty"),
        (["", TEXT], {}, "prompt 0 of the batch: the prompt is empty"),
        ([1], {}, "single token, so it has no next token"),
        ([4] * 65, {}, "has 65 tokens but .* takes at most 64; shorten it"),
        ([4] * 60, {"answer": [5] * 5}, "the prompt with its answer has 65 tokens"),
        ([4] * 60, {"generate": 5}, "the prompt with 5 more tokens has 65 tokens"),
        ([1, D_VOCAB], {}, f"token id {D_VOCAB} is not in the vocabulary .*0 to {D_VOCAB - 1}"),
        ([1, -1], {}, "token id -1 is not in the vocabulary"),
        (torch.zeros(1, 2, 3, dtype=torch.long), {}, r"got shape \(1, 2, 3\)"),
        (TEXT, {"layers": [3]}, "layer 3 is out of range: .* has layers 0 to 2"),
        (TEXT, {"layers": [-1]}, "layer -1 is out of range"),
        (TEXT, {"layers": [1, 1]}, "layer 1 is given twice"),
        (TEXT, {"layers": []}, "layers is empty"),
        (TEXT, {"layers": [0], "by": "sublayer"}, "give layers or by='sublayer', not both"),
        (TEXT, {"targets": [" w9 w10"]}, r"is 2 tokens for .*\[' w9', ' w10'\]; name one token"),
        (TEXT, {"targets": [" elephant"]}, "' elephant' is not in the vocabulary"),
        (TEXT, {"targets": [D_VOCAB]}, f"target token id {D_VOCAB} is not in the vocabulary"),
        (TEXT, {"targets": ["w9"]}, "'w9' merges with the end of the prompt"),
        (TEXT, {"targets": [" w9", 9]}, "target ' w9' is given twice"),
        (TEXT, {"targets": []}, "targets is empty"),
        (TEXT, {"answer": ""}, "the continuation is empty"),
        (TEXT, {"answer": []}, "answer is empty"),
        (TEXT, {"answer": " w4", "generate": 2}, "give only one of answer, generate and targets"),
        (TEXT, {"generate": 0}, "generate must be at least 1, got 0"),
        (TEXT, {"baseline": "average"}, "unknown baseline 'average'; choose one of mean"),
        (TEXT, {"baseline": torch.zeros(5)}, r"has shape \(5,\), expected \(32,\)"),
        (TEXT, {"baseline": torch.full((32,), torch.nan)}, "NaN or infinite"),
        (TEXT, {"value": "probability"}, "unknown value 'probability'"),
        (TEXT, {"estimator": "magic"}, "unknown estimator 'magic'; choose one of delta"),
        (TEXT, {"n_steps": 8}, "delta estimator is exact and has no steps"),
        (TEXT, {"estimator": "riemann", "n_steps": 0}, "n_steps must be at least 1, got 0"),
        (TEXT, {"estimator": "riemann", "tolerance": 0.1}, "riemann estimator has no tolerance"),
        (TEXT, {"estimator": "gradient", "tolerance": 0.0}, "tolerance must be positive"),
        (TEXT, {"top_k": -1}, "top_k must be an integer of at least 0"),
        ([{"role": "user", "content": "w4"}], {}, "no chat template; pass plain text"),
        ([{"role": "user"}], {}, "'role' and 'content'"),
        ([TEXT, TEXT], {"answer": [" w4", " w5", " w6"]}, "got 2 prompts but 3 entries of answer"),
    ],
)
def test_bad_input_is_named_with_its_remedy(toy, prompt, options, message):
    with pytest.raises(ValueError, match=message):
        ig_lens(toy, prompt, **options)


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        (3.5, {}, "prompt must be a text, chat messages, token ids or a list of these, got float"),
        ([1.5, 2.5], {}, "integer token ids, got float"),
        ([1, True], {}, "integer token ids"),
        (torch.zeros(4), {}, "token ids must be integers, got torch.float32"),
        (TEXT, {"layers": 2}, "layers must be a list of block numbers, got 2"),
        (TEXT, {"layers": ["L2"]}, "layers must be block numbers, got 'L2'"),
        (TEXT, {"baseline": 0}, "baseline must be a name or a vector, got int"),
        (TEXT, {"answer": 4.5}, "answer must be text or integer token ids, got float"),
        (TEXT, {"targets": [None]}, "target must be text or integer token ids, got NoneType"),
        (TEXT, {"generate": "3"}, "generate must be an integer, got str"),
    ],
)
def test_input_of_a_wrong_kind_is_named(toy, prompt, options, message):
    with pytest.raises(TypeError, match=message):
        ig_lens(toy, prompt, **options)


def test_messages_that_a_template_refuses_are_a_readable_error(chat_model):
    chat_model.tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ValueError, match="refuses these messages: roles must alternate"):
        ig_lens(chat_model, [{"role": "user", "content": "w4"}])


def _row(result, index):
    from dataclasses import replace

    rows = slice(index, index + 1)
    return replace(
        result,
        targets=result.targets[rows],
        values=result.values[rows],
        levels=result.levels[rows],
        baseline=result.baseline[rows],
        final=result.final[rows],
        ranks=None,
        top=None,
    )
