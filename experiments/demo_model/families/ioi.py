"""Draws indirect-object identification: Mary and John ..., John gave a drink to Mary."""

from random import Random

from experiments.demo_model.examples import Draw, Example
from experiments.demo_model.families.word_lists import all_names, words
from experiments.demo_model.split import is_held_out

NAME = "ioi"

# {s} is the subject, who is named twice; {first} and {second} are the two names in either order.
_TEMPLATES = (
    "When {first} and {second} went to the {place}, {s} gave a {object} to",
    "After {first} and {second} left the {place}, {s} handed a {object} to",
    "While {first} and {second} were working at the {place}, {s} passed a {object} to",
    "Then, {first} and {second} had a lot of fun at the {place}. {s} gave a {object} to",
    "Friends {first} and {second} found a {object} at the {place}. {s} showed it to",
    "Yesterday {first} and {second} met at the {place}. {s} sold a {object} to",
    "{first} and {second} had a long talk at the {place}. Afterwards {s} said goodbye to",
    "{first} met {second} at the {place}. Then {s} offered a {object} to",
    "The {place} was quiet when {first} and {second} came in. {s} lent a {object} to",
    "Then {first} saw {second} near the {place}, and {s} waved to",
)
_THREE_NAMES = (
    "When {first}, {second} and {third} went to the {place}, {s} and {t} gave a {object} to",
    "Yesterday {first}, {second} and {third} met at the {place}. {s} and {t} sold a {object} to",
    "{first}, {second} and {third} were at the {place}. Then {s} and {t} waved to",
)


def draw(rng: Random) -> Draw:
    """Draw two names (or three), their order and a template."""
    return _draw_three(rng) if rng.random() < 0.25 else _draw_two(rng)


def _draw_two(rng: Random) -> Draw:
    subject, indirect_object = rng.sample(all_names(), 2)
    abba = rng.random() < 0.5
    first, second = (indirect_object, subject) if abba else (subject, indirect_object)
    template = rng.choice(_TEMPLATES)
    prompt = template.format(first=first, second=second, s=subject, **_setting(rng))
    held_out = is_held_out(NAME, template, *sorted((subject, indirect_object)))
    return _finish("ABBA" if abba else "BABA", prompt, indirect_object, held_out)


def _draw_three(rng: Random) -> Draw:
    names = rng.sample(all_names(), 3)
    first, second, third = names
    subject, other, indirect_object = rng.sample(names, 3)
    template = rng.choice(_THREE_NAMES)
    prompt = template.format(
        first=first, second=second, third=third, s=subject, t=other, **_setting(rng)
    )
    held_out = is_held_out(NAME, template, *sorted(names))
    return _finish("three names", prompt, indirect_object, held_out)


def _setting(rng: Random) -> dict[str, str]:
    return {"place": rng.choice(words("places")), "object": rng.choice(words("objects"))}


def _finish(group: str, prompt: str, name: str, held_out: bool) -> Draw:
    return Draw(Example(NAME, group, prompt, f" {name}", "."), held_out)
