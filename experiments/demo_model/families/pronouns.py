"""Draws gendered pronouns, next to their noun and at a distance."""

from random import Random

from experiments.demo_model.examples import Draw, Example
from experiments.demo_model.families.word_lists import words
from experiments.demo_model.split import is_held_out

NAME = "pronouns"

# Group, template, (masculine, feminine), tail.
_TEMPLATES = (
    ("subject", "{who} went home because", ("he", "she"), " was tired."),
    ("subject", "{who} said that", ("he", "she"), " was happy."),
    ("subject", "When {who} came home,", ("he", "she"), " slept."),
    ("subject", "{who} smiled, and then", ("he", "she"), " left."),
    ("possessive", "{who} could not find", ("his", "her"), " keys."),
    ("possessive", "{who} forgot", ("his", "her"), " hat."),
    ("possessive", "This morning {who} painted", ("his", "her"), " house."),
    ("reflexive", "In the mirror {who} saw", ("himself", "herself"), "."),
    ("reflexive", "With the knife {who} cut", ("himself", "herself"), "."),
    ("reflexive", "In the picture {who} drew", ("himself", "herself"), "."),
)
# A person of the other gender stands between the noun and the pronoun.
_DISTRACTORS = ("who knows", "who lives near", "who works for", "who likes")


def draw(rng: Random) -> Draw:
    """Draw a person, perhaps with another one described beside them, and a template."""
    gender = rng.randrange(2)
    who, other = _person(rng, gender), _person(rng, 1 - gender)
    group, template, pronouns, tail = rng.choice(_TEMPLATES)
    if distant := rng.random() < 0.4:
        person = f"{who}, {rng.choice(_DISTRACTORS)} {other},"
        group = f"{group}, at a distance"
    else:
        person = who
    prompt = template.format(who=person)
    example = Example(NAME, group, prompt[0].upper() + prompt[1:], f" {pronouns[gender]}", tail)
    return Draw(example, is_held_out(NAME, template, who, other if distant else ""))


def _person(rng: Random, gender: int) -> str:
    if rng.random() < 0.5:
        return rng.choice(words(("male_names", "female_names")[gender]))
    return f"the {rng.choice(words('gendered_people'))[gender]}"
