"""Prompts with one right next token, of several families, for any model.

The families are those that the embedded model was trained on, held-out prompts only, and "text":
ordinary sentences, cut somewhere, whose answer is the model's own most probable token. Any model
has that one; which of the others it has shows in what it answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice, zip_longest
from random import Random

import torch
from torch import Tensor

from experiments.demo_model.examples import Example, held_out_examples
from experiments.demo_model.families import FAMILIES as TRAINED_FAMILIES
from iglens_tl import embedded_reference_texts
from iglens_tl.models import ModelAdapter, capture
from iglens_tl.prompts.tokenization import decode, encode_text, token_string

TEXT = "text"
WRONG = "wrong"
FAMILIES = (*TRAINED_FAMILIES, TEXT, WRONG)
"""The families by name; "wrong" is the control whose answers are wrong ones."""

SMALLEST_P = 0.1
"""Items whose right answer is less probable are left out (METHODS 8.4)."""

_DRAWS = 3_000
_PER_GROUP = 100
_CANDIDATES = 200
_BATCH = 32
_SHORTEST_TEXT = 5


@dataclass(frozen=True)
class Item:
    """A prompt with its answer.

    Attributes:
        family: The family's name.
        prompt: The text, for people.
        ids: Its token ids, BOS included where the model has one.
        answer_id: The answer, a single token.
        answer: The answer as text, with its leading space.
        other_id: A wrong answer of the same kind, the most probable one: another answer of the
            same task, or of "text" the second most probable token. Where the answer itself is a
            wrong one this is the right one.
        other: The other answer as text.
        p: The answer's probability.
    """

    family: str
    prompt: str
    ids: tuple[int, ...]
    answer_id: int
    answer: str
    other_id: int
    other: str
    p: float


@dataclass(frozen=True)
class DrawnItems:
    """The items of several families.

    Attributes:
        items: All of them, family by family.
        notes: A sentence for each family that has fewer items than were asked for.
    """

    items: tuple[Item, ...]
    notes: tuple[str, ...]


def draw_all(
    adapter: ModelAdapter,
    number: int,
    *,
    families: Sequence[str] = FAMILIES,
    fewest: int = 5,
    seed: int = 0,
) -> DrawnItems:
    """Draw items of several families.

    Args:
        adapter: The model.
        number: How many items of each family are wanted.
        families: Their names.
        fewest: A family with fewer items, or fewer than the number, is left out.
        seed: Seed of the draws.

    Raises:
        ValueError: If no family has enough items, and as `draw_items` does.
    """
    items: list[Item] = []
    notes = []
    for family in families:
        found = draw_items(adapter, family, number, seed=seed)
        enough = len(found) >= min(number, fewest)
        if enough:
            items += found
        if len(found) < number:
            what = "all are used" if enough else "the family is left out"
            notes.append(
                f"{family}: {adapter.name} has {len(found)} of {number} items "
                f"(one token, p > {SMALLEST_P}), {what}"
            )
    if not items:
        raise ValueError(f"{adapter.name} has too few items: {'; '.join(notes)}")
    return DrawnItems(tuple(items), tuple(notes))


def draw_items(adapter: ModelAdapter, family: str, number: int, *, seed: int) -> list[Item]:
    """Draw items of one family, all with different prompts.

    Only single-token answers with p > `SMALLEST_P` are kept. Where several answers are right, as
    years after a given one are, the most probable one is the answer. The items of "wrong" follow,
    in the other families, on those that are drawn with the same number and seed, so that no prompt
    is used twice; they have no lower bound of p, but their right answers do.

    Args:
        adapter: The model.
        family: One of `FAMILIES`.
        number: How many items are wanted; fewer come back where the model has fewer.
        seed: Seed of the draws.

    Raises:
        ValueError: For an unknown family, a number below 1, or a model without a tokenizer.
    """
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; choose one of {', '.join(FAMILIES)}")
    if number < 1:
        raise ValueError(f"number must be at least 1, got {number}")
    if adapter.tokenizer is None:
        raise ValueError(f"{adapter.name} has no tokenizer, so prompts cannot be drawn for it")
    if family != WRONG:
        return list(islice(_answered(adapter, family, seed), number))
    others = [name for name in FAMILIES if name != WRONG]
    by_family = [islice(_answered(adapter, name, seed), number, None) for name in others]
    in_turn = (item for row in zip_longest(*by_family) for item in row if item is not None)
    return [_with_wrong_answer(adapter, item) for item in islice(in_turn, number)]


@dataclass(frozen=True)
class _Candidate:
    """A prompt before the model is asked; without right answers the model's own is the right one.

    Attributes:
        prompt: The text.
        ids: Its tokens.
        right: The right answers.
        kind: All answers of the same kind.
    """

    prompt: str
    ids: tuple[int, ...]
    right: frozenset[int] = frozenset()
    kind: frozenset[int] = frozenset()


def _answered(adapter: ModelAdapter, family: str, seed: int) -> Iterator[Item]:
    """Yield the items of a family, asking the model about some candidates at a time."""
    rng = Random(f"{family} {seed}")
    candidates = _texts(adapter, rng) if family == TEXT else _examples(adapter, family, rng)
    asked: set[tuple[int, ...]] = set()
    while batch := list(islice(candidates, _BATCH)):
        new = list({c.ids: c for c in batch if c.ids not in asked}.values())
        asked.update(candidate.ids for candidate in new)
        probs = _next_token_probs(adapter, [candidate.ids for candidate in new])
        for candidate, row in zip(new, probs, strict=True):
            item = _item(adapter, family, candidate, row)
            if item is not None:
                yield item


def _item(adapter: ModelAdapter, family: str, candidate: _Candidate, probs: Tensor) -> Item | None:
    """Return the item, or None where the answer is improbable or there is no other one."""
    right = candidate.right or {int(probs.argmax())}
    wrong = (candidate.kind or set(range(len(probs)))) - right
    answer = max(sorted(right), key=lambda token: float(probs[token]))
    if float(probs[answer]) <= SMALLEST_P or not wrong:
        return None
    other = max(sorted(wrong), key=lambda token: float(probs[token]))
    return Item(
        family=family,
        prompt=candidate.prompt,
        ids=candidate.ids,
        answer_id=answer,
        answer=token_string(adapter, answer),
        other_id=other,
        other=token_string(adapter, other),
        p=float(probs[answer]),
    )


def _with_wrong_answer(adapter: ModelAdapter, item: Item) -> Item:
    probs = _next_token_probs(adapter, [item.ids])[0]
    return replace(
        item,
        family=WRONG,
        answer_id=item.other_id,
        answer=item.other,
        other_id=item.answer_id,
        other=item.answer,
        p=float(probs[item.other_id]),
    )


def _examples(adapter: ModelAdapter, family: str, rng: Random) -> Iterator[_Candidate]:
    """Yield held-out examples whose answers are single tokens, in random order."""
    drawn = held_out_examples(TRAINED_FAMILIES[family], rng, per_group=_PER_GROUP, draws=_DRAWS)
    rng.shuffle(drawn)
    # The markup of conversations is that of the embedded model.
    plain = [example for example in drawn if not example.is_chat][:_CANDIDATES]
    found = _right_answers(adapter, plain)
    kinds: dict[str, set[int]] = {}
    for example, right in zip(plain, found, strict=True):
        kinds.setdefault(example.group, set()).update(right)
    for example, right in zip(plain, found, strict=True):
        if right:
            ids = tuple(encode_text(adapter, example.prompt, prepend_bos=None))
            if len(ids) < adapter.n_ctx:
                yield _Candidate(example.prompt, ids, right, frozenset(kinds[example.group]))


def _right_answers(adapter: ModelAdapter, examples: Sequence[Example]) -> list[frozenset[int]]:
    """Return the answers that are one token, and stay that token when the text goes on."""
    answers = [example.accepted or (example.answer,) for example in examples]
    texts = {
        example.prompt + end
        for example, own in zip(examples, answers, strict=True)
        for end in ("", *own, *(answer + example.tail for answer in own))
    }
    ordered = sorted(texts)
    encoded = adapter.tokenizer(ordered, add_special_tokens=False)["input_ids"] if ordered else []
    ids = dict(zip(ordered, encoded, strict=True))
    found = []
    for example, own in zip(examples, answers, strict=True):
        before = ids[example.prompt]
        right = set()
        for answer in own:
            both = ids[example.prompt + answer]
            followed = ids[example.prompt + answer + example.tail]
            if both[:-1] == before and followed[: len(both)] == both:
                right.add(both[-1])
        found.append(frozenset(right - {adapter.tokenizer.unk_token_id}))
    return found


def _texts(adapter: ModelAdapter, rng: Random) -> Iterator[_Candidate]:
    """Yield the beginnings of reference texts; every text is cut once before any is cut twice."""
    by_text = []
    texts = embedded_reference_texts()
    for text in rng.sample(texts, len(texts)):
        ids = encode_text(adapter, text, prepend_bos=None)[: adapter.n_ctx]
        ends = range(_SHORTEST_TEXT, len(ids))
        by_text.append([tuple(ids[:end]) for end in rng.sample(ends, len(ends))])
    for ids in chain.from_iterable(zip_longest(*by_text)):
        if ids is not None:
            shown = ids[1:] if _begins_with_bos(adapter, ids) else ids
            yield _Candidate(decode(adapter, shown), ids)


def _begins_with_bos(adapter: ModelAdapter, ids: Sequence[int]) -> bool:
    return ids[0] == adapter.tokenizer.bos_token_id


def _next_token_probs(adapter: ModelAdapter, prompts: Sequence[tuple[int, ...]]) -> Tensor:
    """Return the probabilities `[prompt, d_vocab]` of what follows each prompt."""
    longest = max(map(len, prompts))
    # What stands to the right of a position cannot be seen from there: the filling has no effect.
    tokens = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in prompts])
    last = torch.tensor([len(ids) - 1 for ids in prompts])
    rows = torch.arange(len(prompts))
    site = adapter.post_site(adapter.n_layers - 1)
    states = capture(adapter, tokens, {site: lambda found: found[rows, last].clone()})[site]
    return adapter.readout.logits(states).double().softmax(-1)
