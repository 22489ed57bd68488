"""Held-out prompts of two families, with the role that every token plays."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random

import torch

from experiments.demo_model.examples import held_out_examples
from experiments.demo_model.facts import Fact, all_facts, load_relations
from experiments.demo_model.families import FAMILIES, ioi
from experiments.demo_model.families.fact_recall import is_phrasing_held_out, phrase_fact
from iglens_tl.models import ModelAdapter, capture

IOI_ROLES = (
    "BOS",
    "indirect object",
    "subject, first time",
    "before subject's return",
    "subject, second time",
    "after subject's return",
    "last token",
)
FACT_ROLES = (
    "BOS",
    "before subject",
    "subject, last token",
    "subject, earlier tokens",
    "after subject",
    "last token",
)
_IOI_PER_GROUP = 200
_IOI_DRAWS = 6_000


@dataclass(frozen=True)
class Case:
    """A prompt with its answer.

    Attributes:
        prompt: The text.
        answer: What follows it, with its leading space.
        other: A wrong answer of the same kind: in indirect-object identification the subject, for
            a fact another answer of the same relation.
        ids: The prompt's token ids, BOS included.
        answer_id: The answer's only token.
        other_id: The wrong answer's only token.
        roles: The role of every token of the prompt.
    """

    prompt: str
    answer: str
    other: str
    ids: tuple[int, ...]
    answer_id: int
    other_id: int
    roles: tuple[str, ...]


def answered_cases(
    adapter: ModelAdapter, candidates: Sequence[Case], number: int
) -> tuple[list[Case], int]:
    """Return the first cases whose most probable next token is the answer, and how many were asked.

    Cases are asked in order until the number is reached.
    """
    right = answers_right(adapter, candidates)
    found = list(islice((i for i, is_right in enumerate(right) if is_right), number))
    asked = found[-1] + 1 if len(found) == number else len(candidates)
    return [candidates[i] for i in found], asked


def answers_right(adapter: ModelAdapter, cases: Sequence[Case]) -> list[bool]:
    """Tell for each case whether its answer is the model's most probable next token."""
    last = torch.tensor([len(case.ids) - 1 for case in cases])
    site = adapter.post_site(adapter.n_layers - 1)
    rows = torch.arange(len(cases))
    states = capture(adapter, pad(cases), {site: lambda found: found[rows, last].clone()})[site]
    best = adapter.readout.logits(states).argmax(-1).tolist()
    return [token == case.answer_id for token, case in zip(best, cases, strict=True)]


def pad(cases: Sequence[Case]) -> torch.Tensor:
    """Return the prompts' token ids `[case, pos]`, filled up on the right.

    What stands to the right of a position cannot be seen from there, so the filling has no effect.
    """
    longest = max(len(case.ids) for case in cases)
    return torch.tensor([[*case.ids, *[0] * (longest - len(case.ids))] for case in cases])


def ioi_cases(adapter: ModelAdapter, rng: Random, number: int) -> list[Case]:
    """Draw held-out prompts of indirect-object identification with two names, in both orders."""
    drawn = held_out_examples(FAMILIES[ioi.NAME], rng, per_group=_IOI_PER_GROUP, draws=_IOI_DRAWS)
    two_names = [example for example in drawn if example.group in ("ABBA", "BABA")]
    rng.shuffle(two_names)
    return [_ioi_case(adapter, e.prompt, e.answer.strip()) for e in two_names[:number]]


def fact_cases(adapter: ModelAdapter, rng: Random, number: int) -> list[Case]:
    """Draw held-out statements of facts, such as "France has its capital in", of all relations.

    Only phrasings that go on after the subject and whose answer is one token are drawn; every
    fact is drawn in one phrasing.
    """
    cases = []
    for fact in rng.sample(all_facts(), len(all_facts())):
        templates = load_relations()[fact.relation].declarative
        numbers = [i for i in range(len(templates)) if is_phrasing_held_out(fact, "statement", i)]
        for index in rng.sample(numbers, len(numbers)):
            case = _fact_case(adapter, fact, index, rng)
            if case is not None:
                cases.append(case)
                break
        if len(cases) == number:
            break
    return cases


def _ioi_case(adapter: ModelAdapter, prompt: str, indirect_object: str) -> Case:
    # The subject is the name that stands twice: all names are capitalised single words.
    words = prompt.replace(",", " ").replace(".", " ").split()
    names = [word for word in words if word in ioi.all_names() and word != indirect_object]
    subject = max(names, key=names.count)
    first, named = _span(prompt, subject), _span(prompt, indirect_object)
    second = first and _span(prompt, subject, first[1])
    if first is None or second is None or named is None:
        raise ValueError(f"{prompt!r} does not name {subject} twice and {indirect_object}")

    def role(start: int, end: int) -> str:
        for name, span in (
            ("indirect object", named),
            ("subject, first time", first),
            ("subject, second time", second),
        ):
            if _overlap((start, end), span):
                return name
        return "before subject's return" if end <= second[0] else "after subject's return"

    case = _case(adapter, prompt, indirect_object, subject, role)
    if case is None:
        raise ValueError(f"the answer to {prompt!r} is not one token")
    return case


def _fact_case(adapter: ModelAdapter, fact: Fact, index: int, rng: Random) -> Case | None:
    phrased = phrase_fact(fact, "statement", index)
    subject = _span(phrased.prompt, fact.subject)
    if subject is None or subject[1] == len(phrased.prompt):
        return None

    def role(start: int, end: int) -> str:
        if _overlap((start, end), subject):
            return "subject, last token" if end >= subject[1] else "subject, earlier tokens"
        return "before subject" if end <= subject[0] else "after subject"

    answers = sorted({f.answer for f in load_relations()[fact.relation].facts} - {fact.answer})
    return _case(adapter, phrased.prompt, phrased.answer.strip(), rng.choice(answers), role)


def _case(
    adapter: ModelAdapter, prompt: str, answer: str, other: str, role: Callable[[int, int], str]
) -> Case | None:
    """Return a case, or None where an answer is not one token after the prompt."""
    encoded = adapter.tokenizer(prompt, return_offsets_mapping=True)
    ids = encoded["input_ids"]
    tokens = [adapter.tokenizer(f"{prompt} {word}")["input_ids"] for word in (answer, other)]
    if any(found[:-1] != ids for found in tokens):
        return None
    spans = encoded["offset_mapping"][1:-1]
    roles = ("BOS", *(role(*span) for span in spans), "last token")
    return Case(prompt, f" {answer}", f" {other}", tuple(ids), tokens[0][-1], tokens[1][-1], roles)


def _span(text: str, words: str, start: int = 0) -> tuple[int, int] | None:
    """Return where words stand in a text, whatever their case; None if they do not."""
    found = re.compile(rf"(?<!\w){re.escape(words)}(?!\w)", re.IGNORECASE).search(text, start)
    return found and found.span()


def _overlap(first: tuple[int, int], second: tuple[int, int]) -> bool:
    return first[0] < second[1] and second[0] < first[1]
