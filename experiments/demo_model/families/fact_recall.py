"""Draws facts in every phrasing: statements, plain questions, chat questions."""

from random import Random

from experiments.demo_model.examples import Draw, Example
from experiments.demo_model.facts import Fact, all_facts, load_relations
from experiments.demo_model.phrasing import Phrased, chat_question, phrase, plain_question
from experiments.demo_model.split import is_held_out

NAME = "facts"


def draw(rng: Random) -> Draw:
    """Draw a fact and a phrasing, both uniformly."""
    fact = rng.choice(all_facts())
    form, index = rng.choice(_forms(fact.relation))
    return Draw(
        example=Example(NAME, fact.relation, *phrase_fact(fact, form, index)),
        held_out=is_phrasing_held_out(fact, form, index),
    )


def phrase_fact(fact: Fact, form: str, index: int) -> Phrased:
    """Phrase a fact.

    Args:
        fact: The fact.
        form: "statement", "question" or "chat".
        index: Number of the template.
    """
    relation = load_relations()[fact.relation]
    if form == "statement":
        return phrase(relation.declarative[index], fact.subject, fact.answer)
    if form == "question":
        return plain_question(relation.questions[index], fact.subject, fact.answer)
    return chat_question(relation.questions[index], fact.subject, canonical_sentence(fact))


def canonical_sentence(fact: Fact) -> str:
    """State the fact with its relation's first template, as the chat answers do."""
    return phrase_fact(fact, "statement", 0).sentence


def is_phrasing_held_out(fact: Fact, form: str, index: int) -> bool:
    """Tell whether this fact is never seen in this phrasing.

    The canonical statement is always trained on: it is also the answer of the chat form, so
    holding it out would mean to hold out half of the other phrasings with it.
    """
    if (form, index) == ("statement", 0):
        return False
    return is_held_out(NAME, fact.relation, fact.subject, form, index)


def _forms(relation_name: str) -> list[tuple[str, int]]:
    relation = load_relations()[relation_name]
    statements = [("statement", index) for index in range(len(relation.declarative))]
    questions = [
        (form, index) for form in ("question", "chat") for index in range(len(relation.questions))
    ]
    return statements + questions
