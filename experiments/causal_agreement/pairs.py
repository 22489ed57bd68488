"""Corrupted prompts: the same text about something else, with as many tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from random import Random

from experiments.common.items import Item
from experiments.demo_model.facts import all_facts, load_relations
from experiments.demo_model.families import fact_recall, ioi
from iglens_tl.models import ModelAdapter
from iglens_tl.prompts.tokenization import encode_text


def corrupted_ids(adapter: ModelAdapter, item: Item, *, seed: int = 0) -> list[int] | None:
    """Return the token ids of an item's corrupted prompt, None where there is none.

    For "ioi" the answer's name and another one that stands twice change places, so that the other
    one is the right answer. For "facts" another subject of the same relation, with another answer,
    takes the place of the subject. Other families have no such pairs.

    Args:
        adapter: The model.
        item: The item.
        seed: Seed of the choice among subjects.
    """
    corrupt = _WAYS.get(item.family)
    if corrupt is None:
        return None
    for text in corrupt(item, Random(f"{item.prompt} {seed}")):
        ids = encode_text(adapter, text, prepend_bos=None)
        if len(ids) == len(item.ids) and tuple(ids) != item.ids:
            return ids
    return None


def _swapped_names(item: Item, rng: Random) -> Iterator[str]:
    del rng
    answer = item.answer.strip()
    words = re.findall(r"\w+", item.prompt)
    names = dict.fromkeys(word for word in words if word in ioi.all_names() and word != answer)
    for other in names:
        if words.count(other) > 1:
            swap = {answer: other, other: answer}
            yield re.sub(r"\w+", lambda word, swap=swap: swap.get(word[0], word[0]), item.prompt)


def _other_subjects(item: Item, rng: Random) -> Iterator[str]:
    answer = item.answer.strip()
    for fact in all_facts():
        place = re.compile(rf"(?<!\w){re.escape(fact.subject)}(?!\w)", re.IGNORECASE)
        if fact.answer != answer or not place.search(item.prompt):
            continue
        others = [f for f in load_relations()[fact.relation].facts if f.answer != answer]
        for other in rng.sample(others, len(others)):
            subject = other.subject
            yield place.sub(lambda found, subject=subject: _in_case(found[0], subject), item.prompt)


def _in_case(pattern: str, word: str) -> str:
    """Return a word with a capital where a sentence's first word had one."""
    return word[:1].upper() + word[1:] if pattern[:1].isupper() else word


_WAYS: Mapping[str, Callable[[Item, Random], Iterator[str]]] = {
    ioi.NAME: _swapped_names,
    fact_recall.NAME: _other_subjects,
}
"""The families that have pairs."""
