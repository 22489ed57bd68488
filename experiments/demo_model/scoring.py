"""Scores a model: does greedy decoding give the answer, and how probable is it?"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from experiments.demo_model.examples import Example

_BATCH = 128


class Score(NamedTuple):
    """Holds the result of one example.

    Attributes:
        correct: Whether greedy decoding gives the answer.
        probability: Probability of the answer, or of all accepted next tokens together.
    """

    correct: bool
    probability: float


class _Encoded(NamedTuple):
    tokens: list[int]
    answer_start: int


@torch.inference_mode()
def score_examples(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]
) -> list[Score]:
    """Score examples, in their order.

    Greedy decoding reproduces an answer exactly when each of its tokens is the most probable one
    after those before it, so that one forward pass decides.
    """
    encoded = [_encode(tokenizer, example) for example in examples]
    by_length = sorted(range(len(examples)), key=lambda i: len(encoded[i].tokens))
    scores: dict[int, Score] = {}
    for start in range(0, len(by_length), _BATCH):
        indices = by_length[start : start + _BATCH]
        log_probabilities = _log_probabilities(model, [encoded[i].tokens for i in indices])
        for i, rows in zip(indices, log_probabilities, strict=True):
            scores[i] = _score(tokenizer, examples[i], encoded[i], rows)
    return [scores[i] for i in range(len(examples))]


def _encode(tokenizer: PreTrainedTokenizerBase, example: Example) -> _Encoded:
    prompt = tokenizer(example.prompt)["input_ids"]
    answer = tokenizer(example.prompt + example.answer)["input_ids"]
    if answer[: len(prompt)] != prompt:
        raise ValueError(f"The answer changes how the prompt is split: {example.prompt!r}")
    # Where the answer ends the sentence the end belongs to it: "Mexico" is not "Mexico City".
    if example.tail in ("", "."):
        text = example.prompt + example.answer + (example.tail or str(tokenizer.eos_token))
        answer = tokenizer(text)["input_ids"]
    return _Encoded(answer, len(prompt))


def _log_probabilities(model: PreTrainedModel, sequences: list[list[int]]) -> Iterator[Tensor]:
    longest = max(map(len, sequences))
    tokens = torch.tensor([[*row, *[0] * (longest - len(row))] for row in sequences])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in sequences])
    logits = model(input_ids=tokens, attention_mask=mask).logits
    yield from logits.float().log_softmax(-1)


def _score(
    tokenizer: PreTrainedTokenizerBase, example: Example, encoded: _Encoded, rows: Tensor
) -> Score:
    if example.accepted:
        accepted = tokenizer.convert_tokens_to_ids(list(example.accepted))
        assert isinstance(accepted, list)
        row = rows[encoded.answer_start - 1]
        return Score(int(row.argmax()) in accepted, row[accepted].exp().sum().item())
    answer = torch.tensor(encoded.tokens[encoded.answer_start :])
    rows = rows[encoded.answer_start - 1 : len(encoded.tokens) - 1]
    probability = rows.gather(1, answer[:, None]).sum().exp().item()
    return Score(bool((rows.argmax(-1) == answer).all()), probability)
