"""Draws subject-verb agreement with nouns of the other number in between."""

from random import Random

from experiments.demo_model.examples import Draw, Example
from experiments.demo_model.families.word_lists import words
from experiments.demo_model.split import is_held_out

NAME = "agreement"

_PREPOSITIONS = ("to", "near", "behind", "beside", "with", "by", "from")
_VERBS = ("holds", "hold"), ("sees", "see"), ("likes", "like"), ("needs", "need")

# The word that opens the sentence decides the tense, so that one verb form is right.
_FRAMES = (
    ("The", ("is", "are"), " {adjective}."),
    ("Today the", ("is", "are"), " {adjective}."),
    ("Yesterday the", ("was", "were"), " {adjective}."),
    ("Since last year the", ("has", "have"), " been {adjective}."),
)


def draw(rng: Random) -> Draw:
    """Draw a subject, what stands between it and the verb, and a tense."""
    head = rng.choice(words("nouns"))
    number = rng.randrange(2)
    kind = rng.choice((_one_noun, _two_nouns, _relative_clause, _clause_and_noun))
    between, key = kind(rng)
    opening, forms, tail = rng.choice(_FRAMES)
    example = Example(
        family=NAME,
        group=kind.__name__.strip("_").replace("_", " "),
        prompt=f"{opening} {head[number]} {between}",
        answer=f" {forms[number]}",
        tail=tail.format(adjective=rng.choice(words("adjectives"))),
    )
    return Draw(example, is_held_out(NAME, head[0], *key))


def _one_noun(rng: Random) -> tuple[str, tuple]:
    preposition, noun = rng.choice(_PREPOSITIONS), rng.choice(words("nouns"))
    return f"{preposition} the {rng.choice(noun)}", (preposition, noun[0])


def _two_nouns(rng: Random) -> tuple[str, tuple]:
    first, key = _one_noun(rng)
    second, _ = _one_noun(rng)
    return f"{first} {second}", key


def _relative_clause(rng: Random) -> tuple[str, tuple]:
    person, verbs = rng.choice(words("people")), rng.choice(_VERBS)
    number = rng.randrange(2)
    return f"that the {person[number]} {verbs[number]}", (verbs[0], person[0])


def _clause_and_noun(rng: Random) -> tuple[str, tuple]:
    clause, key = _relative_clause(rng)
    noun, _ = _one_noun(rng)
    return f"{clause} {noun}", key
