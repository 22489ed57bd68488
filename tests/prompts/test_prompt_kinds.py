"""Prompts, answers and targets in whatever users hold them."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow
import pytest
import torch

from iglens_tl import ig_lens
from iglens_tl.models import adapt
from iglens_tl.models.capture import run
from iglens_tl.prompts import as_prompts, build_requests
from iglens_tl.prompts import requests as requests_module

TEXTS = ["w17 w42 w5", "w88", "w9 w61 w30 w12 w5 w17 w42"]
IDS = [[1, 17, 42, 5], [1, 88], [1, 9, 61, 30, 12, 5, 17, 42]]
CHATS = [
    [{"role": "user", "content": text}] for text in ("Who is it?", "Where is the capital of Italy?")
]


@pytest.fixture(scope="module")
def adapter(toy):
    """Return the adapter of a model with a tokenizer of words `w4 … w96`."""
    return adapt(toy)


BATCHES_OF_TEXTS = {
    "list": lambda: TEXTS,
    "tuple": lambda: tuple(TEXTS),
    "generator": lambda: (text for text in TEXTS),
    "map": lambda: map(str, TEXTS),
    "deque": lambda: deque(TEXTS),
    "keys of a mapping in order": lambda: iter(dict.fromkeys(TEXTS)),
    "array of objects": lambda: np.array(TEXTS, dtype=object),
    "array of texts": lambda: np.array(TEXTS),
    "pandas column": lambda: pd.DataFrame({"text": TEXTS}, index=[7, 3, 3])["text"],
    "pandas column of strings": lambda: pd.Series(TEXTS, dtype="string"),
    "pandas index": lambda: pd.Index(TEXTS),
    "pyarrow column": lambda: pyarrow.table({"text": TEXTS})["text"],
    "datasets column": lambda: datasets.Dataset.from_dict({"text": TEXTS})["text"],
}


@pytest.mark.parametrize("kind", BATCHES_OF_TEXTS)
def test_any_iterable_of_texts_is_a_batch(adapter, kind):
    prompts, is_batch = as_prompts(adapter, BATCHES_OF_TEXTS[kind]())
    assert is_batch
    assert [list(prompt.ids) for prompt in prompts] == IDS
    assert [prompt.text for prompt in prompts] == TEXTS


BATCHES_OF_IDS = {
    "lists": lambda: IDS,
    "tuple of tuples": lambda: tuple(map(tuple, IDS)),
    "generator of tensors": lambda: (torch.tensor(ids) for ids in IDS),
    "list of arrays": lambda: [np.array(ids, dtype=np.uint16) for ids in IDS],
    "list of columns": lambda: [pd.Series(ids) for ids in IDS],
    "pandas column of lists": lambda: pd.Series(IDS),
    "pandas column of arrays": lambda: pd.Series([np.array(ids) for ids in IDS]),
    "pyarrow column": lambda: pyarrow.array(IDS),
    "datasets column": lambda: datasets.Dataset.from_dict({"ids": IDS})["ids"],
    "array of objects": lambda: pd.Series(IDS).to_numpy(),
}


@pytest.mark.parametrize("kind", BATCHES_OF_IDS)
def test_any_iterable_of_token_ids_is_a_batch(adapter, kind):
    prompts, is_batch = as_prompts(adapter, BATCHES_OF_IDS[kind]())
    assert is_batch
    assert [list(prompt.ids) for prompt in prompts] == IDS


@pytest.mark.parametrize(
    "ids",
    [
        IDS[0],
        tuple(IDS[0]),
        (token for token in IDS[0]),
        torch.tensor(IDS[0]),
        np.array(IDS[0]),
        np.array(IDS[0], dtype=object),
        [np.int64(token) for token in IDS[0]],
        pd.Series(IDS[0]),
    ],
    ids=lambda ids: type(ids).__name__,
)
def test_integers_are_the_token_ids_of_one_prompt(adapter, ids):
    prompts, is_batch = as_prompts(adapter, ids)
    assert not is_batch
    assert [list(prompt.ids) for prompt in prompts] == [IDS[0]]


def test_two_axes_are_a_batch_of_equal_length(adapter):
    for batch in (torch.tensor([IDS[0], IDS[0]]), np.array([IDS[0], IDS[0]])):
        prompts, is_batch = as_prompts(adapter, batch)
        assert is_batch and [list(prompt.ids) for prompt in prompts] == [IDS[0], IDS[0]]


def test_mappings_are_one_chat_and_lists_of_them_a_batch(demo):
    adapter = adapt(demo)
    (expected,), is_batch = as_prompts(adapter, CHATS[0])
    assert not is_batch
    assert as_prompts(adapter, iter(CHATS[0])) == ([expected], False)
    for batch in (
        CHATS,
        iter(CHATS),
        pd.Series(CHATS),
        pd.Series([np.array(chat, dtype=object) for chat in CHATS]),
        datasets.Dataset.from_dict({"messages": CHATS})["messages"],
    ):
        prompts, is_batch = as_prompts(adapter, batch)
        assert is_batch and len(prompts) == 2 and prompts[0] == expected


def test_a_list_of_one_text_is_a_batch(adapter):
    assert as_prompts(adapter, "w5")[1] is False
    assert as_prompts(adapter, ["w5"])[1] is True


def test_texts_chats_and_ids_may_stand_in_one_batch(demo):
    prompts, _ = as_prompts(adapt(demo), ["It is", CHATS[0], [5, 6]])
    assert [len(prompt.ids) > 0 for prompt in prompts] == [True] * 3


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        ({"role": "user"}, TypeError, "prompt must be a text.*got dict"),
        ({"w5", "w9"}, TypeError, "prompt must be a text.*got set"),
        (b"w5", TypeError, "prompt must be a text.*got bytes"),
        (Path("prompts.txt"), TypeError, r"is a file; read it with iglens_tl.prompts.read_prompts"),
        (pd.DataFrame({"a": TEXTS, "b": TEXTS}), TypeError, r"is a table; give one .*\(a, b\)"),
        (pyarrow.table({"a": TEXTS}), TypeError, r"is a table; give one of its columns \(a\)"),
        (datasets.Dataset.from_dict({"a": TEXTS}), TypeError, r"is a table; give one .* \(a\)"),
        (iter([]), ValueError, "the prompt is empty"),
        (pd.Series([], dtype=object), ValueError, "the prompt is empty"),
        (torch.tensor(5), ValueError, "token ids need one axis"),
        (torch.tensor([0.5]), TypeError, "token ids must be integers, got torch.float32"),
        (pd.Series(["w5", None, "w9"]), TypeError, "prompt 1 of the batch: .*got (None|float nan)"),
        (["w5", "", "w9"], ValueError, "prompt 1 of the batch: the prompt is empty"),
        ((ids for ids in ([1, 5], [1, 97])), ValueError, "prompt 1 of the batch: token id 97"),
        ([[1, 5], ["w5"]], TypeError, "prompt 1 of the batch: .*got list that holds str 'w5'"),
        ([1, "w5"], TypeError, "got list that holds str 'w5'"),
        ([True, False], TypeError, "prompt 0 of the batch: .* got bool"),
        (["w5", [{"role": "user"}]], ValueError, "prompt 1 of the batch: .*chat"),
    ],
)
def test_other_things_are_answered_with_what_to_do(adapter, prompt, error, message):
    with pytest.raises(error, match=message):
        as_prompts(adapter, prompt)


def test_an_open_file_is_no_batch_of_lines(adapter, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("w5\nw9\n")
    with path.open() as file, pytest.raises(TypeError, match="prompt is a file; read it with"):
        as_prompts(adapter, file)


ANSWERS = [" w4 w9", " w5", " w6"]
ANSWER_IDS = [(4, 9), (5,), (6,)]


@pytest.mark.parametrize(
    "answers",
    [
        ANSWERS,
        tuple(ANSWERS),
        (answer for answer in ANSWERS),
        pd.Series(ANSWERS),
        np.array(ANSWERS),
        datasets.Dataset.from_dict({"answer": ANSWERS})["answer"],
        [list(ids) for ids in ANSWER_IDS],
        pd.Series([np.array(ids) for ids in ANSWER_IDS]),
        (torch.tensor(ids) for ids in ANSWER_IDS),
    ],
    ids=lambda answers: type(answers).__name__,
)
def test_every_prompt_may_have_its_answer(adapter, answers):
    requests = build_requests(adapter, pd.Series(TEXTS), answer=answers)
    assert [request.target_ids for request in requests] == ANSWER_IDS


def test_what_is_no_list_of_entries_holds_for_all_prompts(adapter):
    for answer in (" w4 w9", [4, 9], (4, 9), torch.tensor([4, 9]), iter([4, 9]), np.array([4, 9])):
        requests = build_requests(adapter, iter(TEXTS), answer=answer)
        assert [request.target_ids for request in requests] == [(4, 9)] * 3
    for targets in ([" w4", " w9"], (4, " w9"), torch.tensor([4, 9]), iter([" w4", 9])):
        requests = build_requests(adapter, iter(TEXTS), targets=targets)
        assert [request.target_ids for request in requests] == [(4, 9)] * 3


def test_a_column_has_an_entry_for_each_prompt(adapter):
    for targets in (
        pd.Series([" w4", " w5", " w6"]),
        pd.Series([4, 5, 6]),
        pyarrow.array([4, 5, 6]),
    ):
        requests = build_requests(adapter, TEXTS, targets=targets)
        assert [request.target_ids for request in requests] == [(4,), (5,), (6,)]
    requests = build_requests(adapter, TEXTS, answer=pd.Series([4, 5, 6]))
    assert [request.target_ids for request in requests] == [(4,), (5,), (6,)]
    with pytest.raises(ValueError, match="got 3 prompts but 2 entries of targets"):
        build_requests(adapter, TEXTS, targets=pd.Series([4, 5]))


def test_errors_of_targets_name_the_prompt(adapter):
    with pytest.raises(ValueError, match="prompt 2 of the batch: answer token id 97 is not"):
        build_requests(adapter, TEXTS, answer=[[4], [5], [97]])
    with pytest.raises(ValueError, match="prompt 1 of the batch: target '.*w4' is given twice"):
        build_requests(adapter, TEXTS, targets=[[" w4"], [" w4", 4], [" w5"]])
    with pytest.raises(ValueError, match="prompt 1 of the batch: the text is a single token"):
        build_requests(adapter, [[1, 5], [1]])
    with pytest.raises(ValueError, match="prompt 2 of the batch: the prompt with 60 more tokens"):
        build_requests(adapter, TEXTS, generate=60)


def test_lenses_read_a_generator_once(toy):
    found = ig_lens(toy, (text for text in TEXTS), answer=(answer for answer in ANSWERS))
    expected = ig_lens(toy, TEXTS, answer=ANSWERS)
    np.testing.assert_allclose(found.values, expected.values, rtol=0, atol=1e-6)


def greedy(model: Any, ids: list[int], n_tokens: int) -> list[int]:
    """Continue one text with the argmax of the model's own logits."""
    added: list[int] = []
    for _ in range(n_tokens):
        with torch.no_grad():
            logits = model(torch.tensor([[*ids, *added]]), return_type="logits")
        added.append(int(logits[0, -1].argmax()))
    return added


def test_a_batch_is_continued_as_its_texts_are_one_by_one(adapter, monkeypatch):
    passes = []
    capture = requests_module.capture

    def counted(*arguments: Any, **options: Any) -> Any:
        passes.append(arguments)
        return capture(*arguments, **options)

    monkeypatch.setattr(requests_module, "capture", counted)
    requests = build_requests(adapter, IDS, generate=6)
    assert len(passes) == 6
    for ids, request in zip(IDS, requests, strict=True):
        assert list(request.target_ids) == greedy(adapter.model, ids, 6)
        assert list(request.ids) == [*ids, *request.target_ids]
        (alone,) = build_requests(adapter, ids, generate=6)
        assert alone == request


def test_a_text_that_has_ended_is_left_alone(adapter, monkeypatch):
    continued = [greedy(adapter.model, ids, 6) for ids in IDS]
    # The second token of the first text ends whatever holds it.
    stop = continued[0][1]
    monkeypatch.setattr(requests_module, "stop_ids", lambda adapter: {stop})
    expected = []
    for tokens in continued:
        expected.append(tuple(tokens[: tokens.index(stop)] if stop in tokens else tokens))
    kept = [index for index, tokens in enumerate(expected) if tokens]
    requests = build_requests(adapter, [IDS[index] for index in kept], generate=6)
    assert [request.target_ids for request in requests] == [expected[index] for index in kept]
    assert len(requests[0].target_ids) == 1
    monkeypatch.setattr(requests_module, "stop_ids", lambda adapter: {continued[1][0]})
    with pytest.raises(ValueError, match="prompt 1 of the batch: .*ends the text right after"):
        build_requests(adapter, IDS, generate=6)


def test_generation_sees_hooks_that_look_at_the_end(toy):
    adapter = adapt(toy)

    def push(state: torch.Tensor, hook: Any) -> torch.Tensor:
        state = state.clone()
        state[:, -1] += 3 * state[:, 0]
        return state

    with toy.hooks(fwd_hooks=[("blocks.2.hook_resid_post", push)]):
        requests = build_requests(adapter, IDS, generate=2)
        for ids, request in zip(IDS, requests, strict=True):
            first = int(run(adapter, torch.tensor([ids]))[0, -1].argmax())
            assert request.target_ids[0] == first
