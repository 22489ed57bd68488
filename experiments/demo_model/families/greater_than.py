"""Draws spans of years: a war that began in 1743 ends in a later year of the century."""

from random import Random

from experiments.demo_model.examples import Draw, Example
from experiments.demo_model.families.word_lists import words
from experiments.demo_model.split import is_held_out

NAME = "greater_than"

_TEMPLATES = (
    "The {event} lasted from the year {century}{start:02} to the year {century}",
    "The {event} began in {century}{start:02} and ended in {century}",
    "The {event} started in the year {century}{start:02} and was over by the year {century}",
    "The {event} went on from {century}{start:02} until {century}",
)


def draw(rng: Random) -> Draw:
    """Draw an event, a century, a starting year and a later year."""
    template, event = rng.choice(_TEMPLATES), rng.choice(words("events"))
    century, start = rng.randint(11, 20), rng.randint(2, 98)
    later = [f"{year:02}" for year in range(start + 1, 100)]
    prompt = template.format(event=event, century=century, start=start)
    return Draw(
        Example(NAME, "years", prompt, rng.choice(later), ".", accepted=tuple(later)),
        is_held_out(NAME, template, event, century, start),
    )
