"""The same held-out two-hop questions, once bare and once after a sentence that says the first hop.

"The currency of the country whose capital is Hanoi is the" has two hops; after "Hanoi is the
capital of Vietnam, so" one hop of the same composition, in the same words, is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random

import numpy as np

from experiments.common.items import SMALLEST_P
from experiments.demo_model.examples import held_out_examples
from experiments.demo_model.families import FAMILIES
from iglens_tl import logit_lens
from iglens_tl.models import ModelAdapter
from iglens_tl.prompts import build_requests

_FAMILY = "two_hop"
_GROUP = "new composition, given"
_JOINT = ", so "
_DRAWS = 6_000
_LARGEST = 500
_BATCH = 32


@dataclass(frozen=True)
class Pair:
    """A question in both forms.

    Attributes:
        bare: The question.
        given: The same with its first hop said before it.
        answer: What follows both.
    """

    bare: str
    given: str
    answer: str


def draw_pairs(adapter: ModelAdapter, number: int, *, seed: int) -> list[Pair]:
    """Draw questions whose answer is one token that has p > `SMALLEST_P` in both forms.

    Their compositions are those that training has in no form.

    Args:
        adapter: The model.
        number: How many are wanted; fewer come back where the model answers fewer.
        seed: Seed of the draws.
    """
    rng = Random(f"pairs {seed}")
    drawn = held_out_examples(FAMILIES[_FAMILY], rng, per_group=_LARGEST, draws=_DRAWS)
    pairs = [
        Pair(_without_first_hop(example.prompt), example.prompt, example.answer)
        for example in drawn
        if example.group == _GROUP
    ]
    rng.shuffle(pairs)
    return list(islice(_answered(adapter, pairs), number))


def _answered(adapter: ModelAdapter, pairs: Sequence[Pair]) -> Iterator[Pair]:
    """Yield the pairs whose answer is probable in both forms, asking about some at a time."""
    for start in range(0, len(pairs), _BATCH):
        single = [p for p in pairs[start : start + _BATCH] if _is_single_token(adapter, p)]
        if not single:
            continue
        answers = [pair.answer for pair in single]
        bare, given = (
            logit_lens(adapter, prompts, answer=answers, top_k=0).final
            for prompts in ([p.bare for p in single], [p.given for p in single])
        )
        for pair, p in zip(single, np.minimum(bare, given), strict=True):
            if p > SMALLEST_P:
                yield pair


def _without_first_hop(given: str) -> str:
    question = given.partition(_JOINT)[2]
    return question[0].upper() + question[1:]


def _is_single_token(adapter: ModelAdapter, pair: Pair) -> bool:
    """Tell whether both forms go on with the answer as one token."""
    try:
        found = build_requests(adapter, [pair.bare, pair.given], answer=[pair.answer] * 2)
    except ValueError:
        # The model's tokens of prompt and answer are others than those of the prompt alone.
        return False
    return all(len(request.target_ids) == 1 for request in found)
