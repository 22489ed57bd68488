"""Assembles training documents from the families."""

from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

from experiments.demo_model.examples import Example, Family, training_example
from experiments.demo_model.families import FAMILIES
from experiments.demo_model.markup import EOS, SYSTEM, USER

# Share of the documents per family.
MIXTURE = {
    "facts": 0.36,
    "two_hop": 0.22,
    "ioi": 0.06,
    "induction": 0.08,
    "greater_than": 0.03,
    "agreement": 0.03,
    "pronouns": 0.04,
    "arithmetic": 0.11,
    "brackets": 0.07,
}

# Share of the documents that join several examples, so that the model also knows long texts.
_JOINED_SHARE = 0.1
_SYSTEM_PROMPTS = ("You are a helpful assistant.", "Answer the question.", "Be brief.")


class Span(NamedTuple):
    """Holds a piece of a document; answers weigh more in the loss than what leads to them."""

    text: str
    is_answer: bool


Document = Sequence[Span]


def documents(seed: int, shard: int, count: int) -> Iterator[Document]:
    """Generate one shard of the corpus, the same one for the same arguments."""
    rng = Random(f"{seed}/{shard}")
    for _ in range(count):
        yield _joined(rng) if rng.random() < _JOINED_SHARE else _single(rng)


def document_text(document: Document) -> str:
    """Join a document's pieces."""
    return "".join(span.text for span in document)


def _single(rng: Random) -> Document:
    example = training_example(_family(rng), rng)
    spans = _spans(_with_loose_question(example, rng))
    if example.is_chat and rng.random() < 0.05:
        return [Span(f"{SYSTEM}{rng.choice(_SYSTEM_PROMPTS)}", False), *spans]
    return spans


def _joined(rng: Random) -> Document:
    """Join examples: conversations of several turns, or texts of several sentences."""
    family = None if rng.random() < 0.5 else _family(rng)
    examples = [training_example(family or _family(rng), rng) for _ in range(rng.randint(2, 6))]
    chats = [example for example in examples if example.is_chat]
    texts = [example for example in examples if not example.is_chat]
    chosen, separator = (chats, EOS) if len(chats) > len(texts) else (texts, rng.choice(" \n"))
    spans = list(_spans(chosen[0]))
    for example in chosen[1:]:
        # The end of an answer is part of what is learned, as it is in a document of its own.
        spans += [Span(separator, separator == EOS), *_spans(example)]
    return spans


def _family(rng: Random) -> Family:
    return FAMILIES[rng.choices(list(MIXTURE), list(MIXTURE.values()))[0]]


def _spans(example: Example) -> Document:
    return Span(example.prompt, False), Span(example.answer + example.tail, True)


def _with_loose_question(example: Example, rng: Random) -> Example:
    """Write some questions carelessly: without the question mark, or in lower case."""
    prompt = example.prompt
    if rng.random() < 0.1:
        prompt = prompt.replace("?", "")
    if example.is_chat and rng.random() < 0.05:
        start = len(USER)
        prompt = prompt[:start] + prompt[start].lower() + prompt[start + 1 :]
    return Example(example.family, example.group, prompt, example.answer, example.tail)
