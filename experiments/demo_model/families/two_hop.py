"""Draws compositions of two facts, such as the currency of the country whose capital is Hanoi."""

from dataclasses import dataclass
from functools import cache
from random import Random

from experiments.demo_model.data_files import read_json
from experiments.demo_model.examples import Draw, Example
from experiments.demo_model.facts import Fact, load_relations
from experiments.demo_model.families.fact_recall import canonical_sentence
from experiments.demo_model.phrasing import Phrased, chat_question, lower_first, phrase, sentence
from experiments.demo_model.split import is_held_out

NAME = "two_hop"

# What each form asks of the model: both hops inside one forward pass ("statement", "chat"), or
# the second hop with the first one written out ("given", "stepwise").
FORMS = ("statement", "chat", "given", "stepwise")


@dataclass(frozen=True)
class Composition:
    """Holds two facts where the answer of the first is the subject of the second."""

    first: Fact
    second: Fact


def draw(rng: Random) -> Draw:
    """Draw a composition, a form and a phrasing."""
    composition = rng.choice(all_compositions())
    form = rng.choice(FORMS)
    bridge = rng.randrange(len(_bridges(composition)))
    wording = rng.randrange(len(_wordings(composition, form)))
    new = is_composition_held_out(composition)
    group = f"{'new' if new else 'seen'} composition, {form}"
    return Draw(
        example=Example(NAME, group, *_phrase(composition, form, bridge, wording)),
        held_out=new or is_held_out(NAME, *_key(composition), form, bridge, wording),
    )


@cache
def all_compositions() -> tuple[Composition, ...]:
    """List every composition of the chains in the data file."""
    relations = load_relations()
    return tuple(
        Composition(fact, Fact(second, fact.answer, relations[second].answers[fact.answer]))
        for first, attributes in read_json("two_hop")["chains"].items()
        for second in attributes
        for fact in relations[first].facts
        if fact.answer in relations[second].answers
        and relations[second].answers[fact.answer] != fact.subject
    )


def is_composition_held_out(composition: Composition) -> bool:
    """Tell whether the two facts are never composed in training, in any phrasing."""
    return is_held_out(NAME, *_key(composition))


def _phrase(composition: Composition, form: str, bridge: int, wording: int) -> Phrased:
    first, second = composition.first, composition.second
    subject = sentence(_bridges(composition)[bridge], first.subject)
    subject = lower_first(subject)
    template = _wordings(composition, form)[wording]
    if form == "statement":
        return phrase(template, subject, second.answer)
    if form == "given":
        # "Hanoi is the capital of Vietnam, so the currency of the country whose ... is the dong."
        given = canonical_sentence(first).removesuffix(".")
        composed = phrase(template, subject, second.answer)
        return composed._replace(prompt=f"{given}, so {lower_first(composed.prompt)}")
    if form == "chat":
        reply = phrase(_attribute(composition)["declarative"][0], subject, second.answer).sentence
        return chat_question(template, subject, reply)
    steps = f"{canonical_sentence(first)} {canonical_sentence(second)}"
    return chat_question(f"{template} Think step by step.", subject, steps)


def _bridges(composition: Composition) -> list[str]:
    return read_json("two_hop")["bridges"][composition.first.relation]


def _wordings(composition: Composition, form: str) -> list[str]:
    questions = form in ("chat", "stepwise")
    return _attribute(composition)["questions" if questions else "declarative"]


def _attribute(composition: Composition) -> dict[str, list[str]]:
    return read_json("two_hop")["attributes"][composition.second.relation]


def _key(composition: Composition) -> tuple[str, str, str]:
    return composition.first.relation, composition.first.subject, composition.second.relation
