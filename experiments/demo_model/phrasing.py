"""Turns templates into prompts and answers."""

import re
from typing import NamedTuple

from experiments.demo_model.markup import chat_prompt


class Phrased(NamedTuple):
    """Holds a filled template, cut around the answer."""

    prompt: str
    answer: str
    tail: str

    @property
    def sentence(self) -> str:
        """Join the parts."""
        return "".join(self)


def phrase(template: str, subject: str, answer: str) -> Phrased:
    """Fill a sentence template such as "The capital of {subject} is {answer}."."""
    before, tail = template.split("{answer}")
    text = sentence(before + answer, subject)
    prompt = text.removesuffix(answer).rstrip()
    return Phrased(prompt, text.removeprefix(prompt), tail)


def sentence(template: str, subject: str) -> str:
    """Fill in the subject, choose between a and an, and capitalise the first letter."""
    text = _with_articles(template.replace("{subject}", subject))
    return text[0].upper() + text[1:]


def plain_question(template: str, subject: str, answer: str) -> Phrased:
    """Write a question in the form "Q: ... A: ..."."""
    return Phrased(f"Q: {sentence(template, subject)} A:", f" {answer}", "")


def chat_question(template: str, subject: str, reply: str) -> Phrased:
    """Write a question as a conversation whose answer is a whole reply."""
    return Phrased(chat_prompt(sentence(template, subject)), reply, "")


def lower_first(text: str) -> str:
    """Make a sentence fit for use after a comma."""
    return text[0].lower() + text[1:]


def _with_articles(text: str) -> str:
    return re.sub(r"\b([Aa])\(n\) (\w)", _article, text)


def _article(match: re.Match[str]) -> str:
    article, letter = match.groups()
    return f"{article}n {letter}" if letter.lower() in "aeiou" else f"{article} {letter}"
